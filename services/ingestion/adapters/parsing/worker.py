"""The worker process of the parser pool: ``python -m services.ingestion.adapters.parsing.worker MEMORY_BYTES``.

Reads requests from standard input and answers on standard output until the input ends. It limits itself before the
first document: memory, files, processes; and processor time anew for each document.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

from services.ingestion.adapters.parsing import _wire, formats
from services.ingestion.parsed import ParseFailure

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_MAX_OPEN_FILES = 64


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # Nothing that a library prints may get between the frames.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    _confine(int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, answers)
    # Skips the interpreter's farewell: there is nothing to save, and the parent may be waiting.
    os._exit(0)


def _confine(memory_bytes: int) -> None:
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, 0)
    # The default action of SIGINT is for the parent to take: Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # A worker that hangs does not see its input end; the kernel ends it with its parent.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # Not every system knows every limit; the timeout of the pool holds everywhere.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (ceiling, ceiling))


def _limit_processor_time(seconds: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    _send(answers, _wire.READY)
    while (header := _receive(requests)) is not None:
        media_type, limits, cpu_seconds = _wire.decode_request(header)
        content = _receive(requests)
        if content is None:
            return
        _limit_processor_time(cpu_seconds)
        try:
            answers.writelines(map(_wire.frame, _wire.encode_document(formats.split(content, media_type, limits))))
            answers.flush()
        except ParseFailure as failure:
            _send(answers, _wire.encode_failure(failure))
        except MemoryError:
            # Perhaps half an answer is out already: only ending tells the parent what happened.
            os._exit(_wire.EXIT_OUT_OF_MEMORY)


def _send(answers: BinaryIO, payload: bytes) -> None:
    answers.write(_wire.frame(payload))
    answers.flush()


def _receive(requests: BinaryIO) -> bytes | None:
    """The next frame, or None when the parent has gone."""
    length = requests.read(_wire.LENGTH.size)
    if len(length) < _wire.LENGTH.size:
        return None
    size = _wire.LENGTH.unpack(length)[0]
    payload = requests.read(size)
    return payload if len(payload) == size else None


if __name__ == "__main__":
    main()
