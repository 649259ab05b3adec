"""Implementations of the ports of the ingestion service."""
