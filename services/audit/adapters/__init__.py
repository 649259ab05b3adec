"""How the audit log reaches its witness."""
