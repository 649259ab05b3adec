"""Calls to HTTP servers outside of the mesh, bounded in bytes, time and work."""
