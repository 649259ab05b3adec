"""Vector stores: one port, and an adapter per engine that can keep chunks and find them again."""
