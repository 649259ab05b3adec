"""Reads what a stopped mesh left: every event of its log."""

from __future__ import annotations

from pathlib import Path

from services.audit.event import AuditEvent, decode
from services.audit.records import EVENTS
from services.journal.files import DirectoryFiles
from services.journal.segments import scan, segment_names


def events_of(data_dir: Path) -> list[AuditEvent]:
    """The events of the log under ``data_dir``, in log order."""
    files = DirectoryFiles.unlocked(data_dir / "audit" / EVENTS)
    return [decode(payload[32:]) for name in segment_names(files) for _, _, payload in scan(files, name)]
