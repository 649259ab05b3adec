"""A data directory into which a backup is being restored: nobody may use it before that has come to its end."""

from __future__ import annotations

from pathlib import Path

from services.corpus.errors import FailedPrecondition

RESTORING = ".restoring"


def require_restored(data_dir: Path) -> None:
    """FailedPrecondition while ``data_dir`` is restored by half."""
    if (data_dir / RESTORING).exists():
        raise FailedPrecondition(
            f"{data_dir} is being restored, or that was interrupted: run `groundwire restore` again to its end"
        )
