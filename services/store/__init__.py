"""StoreService: an embedded index as a service, so that one process owns its files."""
