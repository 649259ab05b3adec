"""What went wrong, as the person at the terminal sees it: one line that says what to do next, and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What a script learns from a command's end."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    REFUSED = 4
    UNWITNESSED = 5
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 it went well · 1 the operation, or a part of it, failed · 2 wrong usage or settings · "
    "3 a service cannot be reached or is not available now · 4 a service refused the request · "
    "5 the audit log holds, but the witness has not signed all of it · 130 Ctrl-C"
)


class CliError(Exception):
    """Ends a command. ``details`` are further lines, one for each wrong field or the like.

    ``retry_after`` is when, in seconds, the same request may go well; None when repeating it is no use.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ExitCode = ExitCode.FAILED,
        details: Sequence[str] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = tuple(details)
        self.retry_after = retry_after

    def lines(self) -> list[str]:
        """What is shown on stderr."""
        return [f"error: {self.message}", *(f"  {detail}" for detail in self.details)]


def usage(message: str, *details: str) -> CliError:
    """The command line or the settings are wrong."""
    return CliError(message, code=ExitCode.USAGE, details=details)
