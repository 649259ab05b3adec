"""What every server process shares: settings base, server assembly, channels, telemetry and wire conversions."""
