"""SubprocessParser: parsing of untrusted documents in worker processes that can be lost without harm."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import _wire, formats
from services.ingestion.parsed import ChunkLimits, FailureReason, ParseFailure, SplitDocument

_START_SECONDS = 60.0
_WORKER = "services.ingestion.adapters.parsing.worker"
# All that a worker gets from this process's environment, where secrets live: what the interpreter may need to load.
_INHERITED = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
# After these, the state of a worker is anyone's guess.
_FATAL = frozenset({FailureReason.PARSER_CRASHED, FailureReason.RESOURCE_LIMIT})


class SubprocessParser:
    """A DocumentParser that keeps up to ``workers`` processes, started when first needed.

    One document may take ``timeout_s`` seconds (waiting for a free worker not counted) and its worker
    ``memory_limit_bytes`` of address space (the interpreter and the libraries take 20 to 60 MB of it). A worker that
    hangs, crashes or runs out of memory fails its document alone and is replaced. After ``documents_per_worker``
    documents a worker is replaced anyway; 1 gives each document a process of its own.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout_s: float = 60.0,
        memory_limit_bytes: int = 1024**3,
        documents_per_worker: int = 100,
    ) -> None:
        if workers < 1 or documents_per_worker < 1 or timeout_s <= 0:
            raise ValueError("workers and documents_per_worker must be at least 1, timeout_s above 0")
        self._workers = workers
        self._timeout_s = timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._documents_per_worker = documents_per_worker
        self._slots = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The processes that run now, for monitoring."""
        return tuple(worker.pid for worker in (*self._idle, *self._busy))

    async def split(self, content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
        """Parse and chunk one document in a worker."""
        formats.check_size(content)
        async with self._slots:
            worker = await self._take()
            keep = False
            try:
                document = await worker.split(content, media_type, limits, self._timeout_s)
                keep = True
                return document
            except ParseFailure as failure:
                keep = worker.answered and failure.reason not in _FATAL
                raise
            finally:
                self._busy.discard(worker)
                if keep and self._closing is None and worker.documents < self._documents_per_worker:
                    self._idle.append(worker)
                else:
                    self._end(worker)

    async def close(self) -> None:
        """End all workers and wait until they are gone; documents under way fail."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        while self._idle:
            self._end(self._idle.pop())
        for worker in self._busy:
            worker.kill()
        # Once all slots are ours, every call has seen the end of its worker, or that the pool is closed.
        for _ in range(self._workers):
            await self._slots.acquire()
        await asyncio.gather(*self._ending)
        for _ in range(self._workers):
            self._slots.release()

    async def _take(self) -> _Worker:
        """An idle worker that still lives, or a new one."""
        self._check_open()
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                self._busy.add(worker)
                return worker
            self._end(worker)
        worker = await _Worker.spawn(self._memory_limit_bytes)
        self._busy.add(worker)
        try:
            await worker.ready()
            self._check_open()
        except BaseException:
            self._busy.discard(worker)
            self._end(worker)
            raise
        return worker

    def _check_open(self) -> None:
        if self._closing is not None:
            raise ParseFailure(
                FailureReason.PARSER_CRASHED,
                "The service is shutting down; send the document again.",
                detail="the parser pool is closed",
            )

    def _end(self, worker: _Worker) -> None:
        """Kill a worker and see to it that it is reaped, without making anyone wait."""
        worker.kill()
        task = asyncio.create_task(worker.gone())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _Worker:
    """One worker process; one document at a time."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a worker needs pipes")
        self._process = process
        self._requests = process.stdin
        self._answers = process.stdout
        self.documents = 0
        self.answered = False

    @classmethod
    async def spawn(cls, memory_limit_bytes: int) -> _Worker:
        arguments = ("-P", "-m", _WORKER, str(memory_limit_bytes))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment(), cwd="/"
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._answers.at_eof()

    async def ready(self) -> None:
        """Wait until the worker has started; raise ParseFailure if it does not."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                if await self._read() != _wire.READY:
                    raise formats.crashed("a worker answered before it was asked")
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            raise formats.crashed(f"a worker did not start: {type(error).__name__}") from None

    async def split(
        self, content: bytes, media_type: MediaType, limits: ChunkLimits, timeout_s: float
    ) -> SplitDocument:
        self.documents += 1
        self.answered = False
        try:
            async with asyncio.timeout(timeout_s):
                header = _wire.encode_request(media_type, limits, math.ceil(timeout_s))
                self._requests.writelines((_wire.frame(header), _wire.LENGTH.pack(len(content)), content))
                await self._requests.drain()
                outcome = await self._answer()
        except TimeoutError:
            raise _timed_out() from None
        except (OSError, EOFError):
            raise await self._post_mortem() from None
        except (ValueError, RecursionError):
            raise formats.crashed("a worker's answer makes no sense") from None
        self.answered = True
        if isinstance(outcome, ParseFailure):
            raise outcome
        return outcome

    async def _answer(self) -> SplitDocument | ParseFailure:
        answer = _wire.Answer()
        size = 0
        while size <= _wire.MAX_ANSWER_BYTES:
            payload = await self._read()
            size += len(payload)
            outcome = answer.add(payload)
            if outcome is not None:
                return outcome
            # Frames that are in the buffer already come without a pause: give others their turn.
            await asyncio.sleep(0)
        raise ValueError("an answer without end")

    async def _read(self) -> bytes:
        length = _wire.LENGTH.unpack(await self._answers.readexactly(_wire.LENGTH.size))[0]
        if length > _wire.MAX_FRAME_BYTES:
            raise ValueError("an overlong frame")
        return await self._answers.readexactly(length)

    async def _post_mortem(self) -> ParseFailure:
        """Why the worker is gone."""
        self.kill()
        code = await self._process.wait()
        if code == _wire.EXIT_OUT_OF_MEMORY:
            return formats.too_much_memory()
        if code == -signal.SIGXCPU:
            return _timed_out()
        return formats.crashed(f"the worker ended with code {code}")

    def kill(self) -> None:
        # Not Process.kill: it may reap the process itself, and asyncio then never learns how it ended.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until the process is reaped and its pipes are closed."""
        await self._process.wait()
        self._requests.close()
        with contextlib.suppress(OSError):
            await self._requests.wait_closed()


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # The same modules as here, wherever they come from.
    modules = os.pathsep.join(str(Path(entry or ".").absolute()) for entry in sys.path)
    return inherited | {
        "PYTHONPATH": modules,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "1",
    }


def _timed_out() -> ParseFailure:
    return ParseFailure(
        FailureReason.TIMED_OUT, "Reading the document took too long; split it into smaller documents and try again."
    )
