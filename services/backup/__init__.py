"""Backups: everything of an installation but its keys in one folder, taken while it serves, and verified when restored.

docs/backup.md is the operator's page, ADR 10 says why it is built like this. A service that begins to keep something
durable of its own (sessions, say) gets a part here: written in :func:`services.backup.backup.back_up_to`, put back in
:func:`services.backup.restore.restore`, and counted in the manifest.
"""
