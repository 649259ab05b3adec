"""``groundwire audit verify DIR``: offline, with public keys alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.errors import ExitCode, usage
from cli.output import Format, Screen
from cli.text import plural
from services.audit.note import NoteError, Verifier
from services.audit.verify import verify_directory
from services.corpus.cleaning import cleaned


def verify_copy(
    screen: Screen,
    directory: Path,
    log_keys: Sequence[str],
    witness_keys: Sequence[str],
    known: Sequence[Path],
    *,
    lag: int = 0,
) -> int:
    """Verify the log in ``directory``, show what was found, and return the exit code.

    ``lag`` is how many events at the end need no signature of the witness.
    """
    if not log_keys:
        raise usage("--log-key is missing: a key that lies beside the log proves nothing; use one that you kept")
    if not directory.is_dir():
        raise usage(f"{directory} is not a directory")
    report = verify_directory(
        directory, [_key(text) for text in log_keys], [_key(text) for text in witness_keys], [_read(p) for p in known]
    )
    show_report(
        screen,
        report.events,
        report.checkpoints,
        report.problems,
        report.notes,
        cosigned=report.cosigned,
        unwitnessed=report.unwitnessed if report.unwitnessed > lag else 0,
    )
    if not report.intact:
        return ExitCode.FAILED
    return ExitCode.UNWITNESSED if report.unwitnessed > lag else ExitCode.OK


def show_report(
    screen: Screen,
    events: int,
    checkpoints: int,
    problems: Sequence[str],
    notes: Sequence[str] = (),
    *,
    cosigned: int | None = None,
    unwitnessed: int = 0,
) -> None:
    """What a verification found. ``unwitnessed`` events at the end lack the witness's signature, and should have it."""
    if screen.format is Format.JSON:
        document = {"intact": not problems, "events": events, "checkpoints": checkpoints, "problems": list(problems)}
        if cosigned is not None:
            document |= {"cosigned": cosigned, "unwitnessed": unwitnessed, "notes": list(notes)}
        screen.json(document)
        return
    counted = f"{plural(events, 'event')}, {plural(checkpoints, 'checkpoint')}"
    if cosigned is not None:
        counted += f", {cosigned:,} cosigned"
    screen.say(f"{'DAMAGED' if problems else 'UNWITNESSED' if unwitnessed else 'intact'}: {counted}")
    screen.say(*(f"problem: {cleaned(problem)}" for problem in problems))
    if unwitnessed:
        screen.say(
            f"problem: the witness has not signed the last {plural(unwitnessed, 'event')}: the log's key alone could have "
            "written them. Of a copy of a running log, copy again in a few seconds, or say with --lag how many may be missing"
        )
    screen.say(*(f"note: {cleaned(note)}" for note in notes))


def _key(given: str) -> Verifier:
    try:
        return Verifier.parse(given if given.count("+") >= 2 else Path(given).read_text())
    except (OSError, NoteError) as error:
        raise usage(f"{given!r} is neither a verifier key nor a file with one: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{path} cannot be read: {error}") from None
