"""What a verification with public keys alone may call intact, and with which exit code it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.audit_verify import verify_copy
from cli.errors import ExitCode
from cli.output import Format, Screen
from services.audit.log import AuditLog
from services.audit.note import Checkpoint, Note
from services.audit.records import CHECKPOINTS, EVENTS, read_checkpoint
from services.audit.witness.witness import CheckpointWitness
from services.journal.files import DirectoryFiles
from services.journal.memory import MemoryFiles
from services.journal.segments import scan, segment_names
from tests.support.audit_world import LOG, WITNESS, cosign, event

FOREIGN = "user:mallory"


async def written(directory: Path, *sizes: int, witnessed: int, forged: int | None = None) -> str:
    """A log in ``directory`` with a checkpoint of each size, cosigned up to ``witnessed``; the witness's last checkpoint."""
    log = await AuditLog.open(
        DirectoryFiles.open(directory / EVENTS), DirectoryFiles.open(directory / CHECKPOINTS), LOG
    )
    witness = CheckpointWitness(MemoryFiles(), WITNESS, lambda: LOG.verifier)
    for size in sizes:
        await log.append([event(n, **({"principal": FOREIGN} if n == forged else {})) for n in range(log.size, size)])
        await log.sign()
        if size <= witnessed:
            await cosign(log, witness)
    await log.close()
    return str(witness.last[0]) if witness.last else ""


def verified(directory: Path, *known: Path, lag: int = 0, witness: bool = True) -> int:
    keys = [str(WITNESS.verifier)] if witness else []
    return verify_copy(Screen(Format.TEXT), directory, [str(LOG.verifier)], keys, known, lag=lag)


async def test_a_log_that_its_witness_signed_to_the_end_is_intact(tmp_path: Path) -> None:
    """The witness's own last checkpoint counts, too (B1)."""
    last = await written(tmp_path, 4, 9, witnessed=9)
    (tmp_path / "last").write_text(last)
    assert verified(tmp_path, tmp_path / "last") == ExitCode.OK


@pytest.mark.parametrize(
    ("sizes", "witnessed", "forged", "missing"),
    [((6, 11), 0, 2, 11), ((6, 11), 6, 8, 5), ((3,), 0, None, 3), ((2, 5, 7), 5, 6, 2)],
)
async def test_what_the_witness_never_signed_is_not_intact(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sizes: tuple[int, ...],
    witnessed: int,
    forged: int | None,
    missing: int,
) -> None:
    """A log that its own key signed anew, without a checkpoint from elsewhere to compare it with (B1)."""
    await written(tmp_path, *sizes, witnessed=witnessed, forged=forged)
    assert verified(tmp_path) == ExitCode.UNWITNESSED
    said = capsys.readouterr()
    assert f"has not signed the last {missing} events" in said.out + said.err
    assert "intact" not in said.out + said.err
    assert verified(tmp_path, lag=missing - 1) == ExitCode.UNWITNESSED
    assert verified(tmp_path, lag=missing) == ExitCode.OK
    assert verified(tmp_path, witness=False) == ExitCode.OK  # then nothing was asked about the witness


async def test_events_that_no_checkpoint_covers_are_not_witnessed(tmp_path: Path) -> None:
    """Whoever writes behind the last checkpoint needs no key at all (B1)."""
    log = await AuditLog.open(DirectoryFiles.open(tmp_path / EVENTS), DirectoryFiles.open(tmp_path / CHECKPOINTS), LOG)
    await log.append([event(n) for n in range(3)])
    await log.sign()
    await cosign(log, CheckpointWitness(MemoryFiles(), WITNESS, lambda: LOG.verifier))
    await log.append([event(3)])
    assert verified(tmp_path) == ExitCode.UNWITNESSED
    await log.close()


async def test_a_known_checkpoint_counts_only_with_the_witness_s_signature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has the log's key makes a checkpoint that fits any log (B2)."""
    await written(tmp_path, 5, 8, witnessed=8)
    files = DirectoryFiles.unlocked(tmp_path / CHECKPOINTS)
    payload = next(payload for name in segment_names(files) for _, _, payload in scan(files, name))
    signed = read_checkpoint(payload, (LOG.verifier,))
    alone = Note(signed.checkpoint.body, ()).with_line(LOG.sign(signed.checkpoint.body))
    (tmp_path / "known").write_text(str(alone))
    assert verified(tmp_path, tmp_path / "known") == ExitCode.FAILED
    assert "does not carry the witness's signature" in "".join(capsys.readouterr())
    assert verified(tmp_path, tmp_path / "known", witness=False) == ExitCode.OK
    both = alone.with_line(WITNESS.sign(alone.body, 1_790_000_000))
    (tmp_path / "known").write_text(str(both))
    assert verified(tmp_path, tmp_path / "known") == ExitCode.OK


async def test_a_known_checkpoint_says_how_far_the_witness_signed(tmp_path: Path) -> None:
    """A log that lost cosignatures is witnessed by a checkpoint that has one, if that is of this log (B1, B2)."""
    await written(tmp_path, 4, 6, witnessed=0)
    files = DirectoryFiles.unlocked(tmp_path / CHECKPOINTS)
    payloads = [payload for name in segment_names(files) for _, _, payload in scan(files, name)]
    last = read_checkpoint(payloads[-1], (LOG.verifier,))
    (tmp_path / "known").write_text(str(last.note.with_line(WITNESS.sign(last.note.body, 1_790_000_000))))
    assert verified(tmp_path) == ExitCode.UNWITNESSED
    assert verified(tmp_path, tmp_path / "known") == ExitCode.OK
    other = Checkpoint(LOG.verifier.name, 6, bytes(32)).body
    foreign = Note(other, ()).with_line(LOG.sign(other)).with_line(WITNESS.sign(other, 1_790_000_000))
    (tmp_path / "known").write_text(str(foreign))
    assert verified(tmp_path, tmp_path / "known") == ExitCode.FAILED
