"""The pool of parser processes: what a bad document can do, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import _wire
from services.ingestion.adapters.parsing.pool import SubprocessParser
from services.ingestion.parsed import ChunkLimits, FailureReason, ParseFailure, SplitDocument

ROOT = Path(__file__).parent.parent.parent
LIMITS = ChunkLimits()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def pids_of(parser: SubprocessParser) -> list[int]:
    return list(parser.worker_pids)


def stop(pid: int) -> None:
    """Make a worker hang; returns once the kernel has stopped it."""
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        pass


async def read(parser: SubprocessParser, content: bytes = b"fine") -> SplitDocument:
    return await parser.split(content, MediaType.TEXT, LIMITS)


@pytest.fixture
async def parser() -> AsyncIterator[SubprocessParser]:
    made = SubprocessParser(workers=1)
    yield made
    await made.close()
    assert pids_of(made) == []


async def test_workers_start_when_needed_are_kept_and_end_with_the_pool(parser: SubprocessParser) -> None:
    assert pids_of(parser) == []
    await read(parser)
    [pid] = pids_of(parser)
    await read(parser)
    with pytest.raises(ParseFailure):
        await read(parser, b"\x00")
    assert pids_of(parser) == [pid]
    await parser.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ParseFailure) as failure:
        await read(parser)
    assert failure.value.reason.transient


async def test_a_worker_killed_under_way_fails_its_document_alone(parser: SubprocessParser) -> None:
    await read(parser)
    [pid] = pids_of(parser)
    stop(pid)
    doomed = asyncio.create_task(read(parser))
    waiting = asyncio.create_task(read(parser, b"the next one"))
    await until(lambda: bool(parser._busy))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ParseFailure) as failure:
        await doomed
    assert failure.value.reason is FailureReason.PARSER_CRASHED
    assert failure.value.detail == "the worker ended with code -9"
    assert (await waiting).passages[0].text == "the next one"
    assert pid not in pids_of(parser)


async def test_a_worker_that_died_idle_harms_nobody(parser: SubprocessParser) -> None:
    await read(parser)
    [pid] = pids_of(parser)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not parser._idle[0].alive)
    await read(parser)
    assert pids_of(parser) != [pid]


async def test_a_worker_that_hangs_is_ended_and_replaced() -> None:
    parser = SubprocessParser(workers=1)
    await read(parser)
    [pid] = pids_of(parser)
    stop(pid)
    parser._timeout_s = 0.05
    with pytest.raises(ParseFailure) as failure:
        await read(parser)
    assert failure.value.reason is FailureReason.TIMED_OUT
    parser._timeout_s = 60
    await read(parser)
    await until(lambda: gone(pid))
    await parser.close()


async def test_a_document_that_computes_too_long_is_ended_by_the_kernel_too(
    parser: SubprocessParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = _wire.encode_request
    # The parent's clock has long to go; the worker may compute for a second.
    monkeypatch.setattr(_wire, "encode_request", lambda media_type, limits, _: encode(media_type, limits, 0))
    with pytest.raises(ParseFailure) as failure:
        await parser.split(b"<div>" * 200_000 + b"x", MediaType.HTML, LIMITS)
    assert failure.value.reason is FailureReason.TIMED_OUT


async def test_a_document_that_needs_too_much_memory_fails_alone() -> None:
    parser = SubprocessParser(workers=1, memory_limit_bytes=200 * 1024**2)
    with pytest.raises(ParseFailure) as failure:
        await parser.split(b"a\n\n" * 1_000_000, MediaType.MARKDOWN, LIMITS)
    assert failure.value.reason is FailureReason.RESOURCE_LIMIT
    await read(parser)
    await parser.close()


async def test_a_cancelled_call_takes_its_worker_along(parser: SubprocessParser) -> None:
    await read(parser)
    [pid] = pids_of(parser)
    stop(pid)
    task = asyncio.create_task(read(parser))
    await until(lambda: bool(parser._busy))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: gone(pid))
    assert (await read(parser)).passages[0].text == "fine"


async def test_closing_fails_what_is_under_way_and_what_waits(parser: SubprocessParser) -> None:
    await read(parser)
    [pid] = pids_of(parser)
    stop(pid)
    tasks = [asyncio.create_task(read(parser)) for _ in range(3)]
    await until(lambda: bool(parser._busy))
    await asyncio.gather(parser.close(), parser.close())
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, ParseFailure) for outcome in outcomes)
    assert not psutil.pid_exists(pid)


async def test_closing_while_a_worker_starts_leaves_nothing(parser: SubprocessParser) -> None:
    children = set(psutil.Process().children())
    task = asyncio.create_task(read(parser))
    await until(lambda: set(psutil.Process().children()) != children)
    await parser.close()
    with pytest.raises(ParseFailure):
        await task
    assert set(psutil.Process().children()) <= children


async def test_workers_are_replaced_after_their_share_of_documents() -> None:
    parser = SubprocessParser(workers=1, documents_per_worker=2)
    pids = []
    for _ in range(4):
        await read(parser)
        pids.append(pids_of(parser))
    assert pids[0] != []
    assert pids[1] == pids[3] == []
    assert pids[0] != pids[2]
    await parser.close()


async def test_workers_are_confined_and_see_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_TEST_SECRET", "hush")
    parser = SubprocessParser(workers=1, memory_limit_bytes=512 * 1024**2)
    await read(parser)
    [pid] = pids_of(parser)
    process = psutil.Process(pid)
    assert "GROUNDWIRE_TEST_SECRET" not in process.environ()
    assert process.cwd() == "/"
    assert process.rlimit(psutil.RLIMIT_AS)[1] == 512 * 1024**2
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_NOFILE)[1] == 64
    assert 0 < process.rlimit(psutil.RLIMIT_CPU)[0] < 100
    loaded = " ".join(region.path for region in process.memory_maps())
    assert "grpc" not in loaded
    assert "numpy" not in loaded
    await parser.close()


async def test_workers_end_with_their_parent_even_when_they_hang() -> None:
    script = """
import asyncio, sys
from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import _wire
from services.ingestion.adapters.parsing.pool import SubprocessParser
from services.ingestion.parsed import ChunkLimits

async def main():
    parser = SubprocessParser(workers=2)
    await asyncio.gather(*(parser.split(b"fine", MediaType.TEXT, ChunkLimits()) for _ in range(8)))
    print(*parser.worker_pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2
    stop(pids[0])
    parent.kill()
    await parent.wait()
    for pid in pids:
        await until(partial(gone, pid))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout_s": 0}, {"documents_per_worker": 0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SubprocessParser(**wrong)
