"""Groundwire's services and the shared rooms beneath them (see ARCHITECTURE.md for the floors)."""
