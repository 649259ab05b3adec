"""``make fuzz``: every target for its share of the time, one process for each, as many at a time as there are cores.

    make fuzz                               ten minutes
    make fuzz SECONDS=60 TARGET=sse SEED=1  one target
    make fuzz TARGET=sse INPUT=FILE         one input, to see a finding again
    make fuzz KEEP=yes                      keeps what reached new lines in the repository's corpora

Inputs that reached new lines are kept in ``.fuzz/corpora``, and are where the next run begins; findings are written to
``.fuzz/findings``. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.engine import CORPORA, ROOT, Finding, Run, Target, check, digest, names, read_inputs, run, smallest
from tests.fuzz.mutations import MAX_BYTES

_WORK = ROOT / ".fuzz"
_MEMORY = 6 * 1024**3  # of addresses, for one process
_PATIENCE = 300.0  # seconds behind its time after which a process is taken to hang
_LONGEST_KEPT = 2048
# Targets that have more to explore than others get more of the time.
_SHARES = {"rpcs": 4.0, "documents": 3.0, "completions": 2.0, "extraction": 2.0, "answers": 2.0}
_PROCESSES = multiprocessing.get_context("spawn")


def main() -> int:
    """Fuzz; the exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--target", default="")
    parser.add_argument("--seed", default="")
    parser.add_argument("--input", default="")
    parser.add_argument("--keep", default="")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.target.split() if name not in names()]
    if unknown:
        parser.error(f"no such target: {' '.join(unknown)}; there are {', '.join(names())}")
    targets = chosen.target.split() or names()
    if chosen.input:
        return _show(targets[0], Path(chosen.input))
    seed = int(chosen.seed) if chosen.seed else random.SystemRandom().randrange(10**6)
    print(f"SEED={seed}", flush=True)
    results = _run_all(targets, chosen.seconds, seed, keep=bool(chosen.keep))
    return _report(results, seed)


def _show(name: str, path: Path) -> int:
    finding = check(Target.load(name), path.read_bytes())
    print(finding.text if finding else f"{name}: nothing wrong")
    return 1 if finding else 0


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """The process of one target; ``current`` is the input that it runs, behind its length."""

    name: str
    process: Any
    results: Any
    current: Any
    ends: float


def _run_all(targets: list[str], seconds: float, seed: int, *, keep: bool) -> dict[str, Run]:
    lanes = min(len(targets), len(os.sched_getaffinity(0)))
    whole = sum(_SHARES.get(name, 1.0) for name in targets)
    # The largest shares first, so that all cores end at about the same time.
    waiting = sorted(targets, key=lambda name: -_SHARES.get(name, 1.0))
    jobs: dict[Any, Job] = {}
    results: dict[str, Run] = {}
    while waiting or jobs:
        while waiting and len(jobs) < lanes:
            name = waiting.pop(0)
            share = min(seconds, seconds * lanes * _SHARES.get(name, 1.0) / whole)
            job = _begin(name, share, seed, keep=keep)
            jobs[job.process.sentinel] = job
        wait([*jobs, *(job.results for job in jobs.values())], timeout=1.0)
        for sentinel, job in list(jobs.items()):
            if (result := _ended(job)) is not None:
                results[job.name] = result
                del jobs[sentinel]
    return results


def _begin(name: str, seconds: float, seed: int, *, keep: bool) -> Job:
    receiving, sending = _PROCESSES.Pipe(duplex=False)
    current = _PROCESSES.RawArray("B", 4 + MAX_BYTES)
    process = _PROCESSES.Process(target=_work, args=(name, seconds, seed, sending, current, keep), daemon=True)
    process.start()
    sending.close()
    return Job(name, process, receiving, current, time.monotonic() + seconds)


def _work(name: str, seconds: float, seed: int, results: Connection, current: Any, keep: bool) -> None:
    """What the process of one target does."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    target = Target.load(name)
    # From now on: how long loading takes says nothing about the target.
    ends = time.monotonic() + seconds
    # What is tried logs what it refuses, and that is not of interest here.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    work = _WORK / "corpora" / name
    result = run(target, ends, seed, more=read_inputs(work), current=memoryview(current).cast("B"))
    _write(work, result.new)
    if keep:
        kept = read_inputs(CORPORA / name)
        few = smallest(target, [data for data in [*kept, *result.corpus] if len(data) <= _LONGEST_KEPT])
        _write(CORPORA / name, few)
    results.send(result)
    target.close()


def _ended(job: Job) -> Run | None:
    """What came of a job, if it has ended; one that ended badly was ended by its last input."""
    if job.results.poll():
        try:
            result: Run = job.results.recv()
        except EOFError:
            job.process.join(10)
            return broke(job, f"the process ended with {job.process.exitcode}")
        job.process.join(60)
        return result
    if not job.process.is_alive():
        return broke(job, f"the process ended with {job.process.exitcode}")
    if time.monotonic() > job.ends + _PATIENCE:
        job.process.kill()
        job.process.join()
        return broke(job, f"the process still ran {_PATIENCE:.0f} s behind its time")
    return None


def broke(job: Job, words: str) -> Run:
    """What is known of a process that ended badly: the input that it ran last."""
    whole = bytes(job.current)
    data = whole[4 : 4 + int.from_bytes(whole[:4], "big")]
    return Run(findings={words: Finding(data, words, words)})


def _write(directory: Path, inputs: list[bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (directory / digest(data)).write_bytes(data)


# --- what is printed ------------------------------------------------------------------------------------------------


def _report(results: dict[str, Run], seed: int) -> int:
    heads = ("TARGET", "EXECUTIONS", "CORPUS", "NEW", "LINES", "KNOWN", "FINDINGS")
    print("{:<14}{:>12}{:>8}{:>6}{:>8}{:>8}{:>10}".format(*heads))
    for name, result in sorted(results.items()):
        row = (result.executions, len(result.corpus), len(result.new), result.lines, result.known, len(result.findings))
        print("{:<14}{:>12,}{:>8}{:>6}{:>8}{:>8}{:>10}".format(name, *row))
    found = [(name, finding) for name, result in sorted(results.items()) for finding in result.findings.values()]
    for name, finding in found:
        path = _WORK / "findings" / name / digest(finding.data)
        _write(path.parent, [finding.data])
        path.with_suffix(".txt").write_text(finding.text)
        print(f"\n{name}: {finding.place}\n{_last_lines(finding.text)}")
        print(f"  again: make fuzz TARGET={name} INPUT={path.relative_to(ROOT)}")
    if found:
        print(f"\n{len(found)} findings with SEED={seed}")
    return 1 if found else 0


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line[:200]}" for line in text.strip().splitlines()[-4:])


if __name__ == "__main__":
    sys.exit(main())
