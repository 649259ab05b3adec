"""AuditService: who did and read what, provably."""
