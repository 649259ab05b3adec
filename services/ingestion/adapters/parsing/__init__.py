"""Parsing: one module per format, and two ways to run them (in worker processes, or in this one)."""
