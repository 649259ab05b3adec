"""Fuzzes one target for a while, guided by the lines that its inputs reach.

Inputs are changed (:mod:`tests.fuzz.mutations`), and those that reach new lines join the corpus. A run is as random as
its seed; how far it gets depends on the machine, and an input alone shows a finding again.

A target is a module with ``fuzz(data)``, which raises whatever is a fault, and ``SEEDS``; where changed bytes would seldom
make sense it has a ``mutate`` of its own, what it holds open ends with its ``close``, and ``around`` makes inputs of a long
run of one piece of text. Its docstring says what holds for every input.

An input is too slow if it takes more than :func:`allowed` of processor time, three times in a row and without tracing.
That is ten times what the slowest take, and the time of other processes does not count: a machine under load gives no
false alarm. What takes time that grows faster than its input shows there because inputs have up to 16 KiB.

Why not Atheris: it has wheels for some architectures and releases of Python alone, so that a driver like this one would be
needed beside it. It tried about as many inputs in the same time and did not find more: of seven faults planted in a copy
of the code, each found the same two within 30 s for a target, one of them after 18 s (Atheris) and 2 s (this driver).
Besides, libFuzzer ends its process at the first finding.
"""

from __future__ import annotations

import gc
import signal
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.coverage import Coverage
from tests.fuzz.mutations import MAX_BYTES, mutate, runs

ROOT = Path(__file__).parents[2]
TARGETS = Path(__file__).parent / "targets"
CORPORA = Path(__file__).parent / "corpora"
KNOWN = Path(__file__).parent / "known.toml"
_MOST_FINDINGS = 10


class TooSlow(BaseException):
    """An input took longer than it may. No Exception, or the code that is tried might catch it."""


def allowed(data: bytes) -> float:
    """Seconds of processor time that an input may take: one, and another for each 16 KiB."""
    return 1.0 + len(data) / 16_384


def digest(data: bytes) -> str:
    """The name of the file that holds an input."""
    return sha256(data).hexdigest()[:16]


def names() -> list[str]:
    """All targets."""
    return sorted(path.stem for path in TARGETS.glob("[a-z]*.py"))


@dataclass(frozen=True)
class Target:
    """One target, and where its corpus is kept."""

    name: str
    fuzz: Callable[[bytes], None]
    seeds: Sequence[bytes]
    mutate: Callable[[bytes, Random, Sequence[bytes], Sequence[bytes]], bytes]
    close: Callable[[], None]
    around: Callable[[bytes], list[bytes]] = lambda _: []

    @classmethod
    def load(cls, name: str) -> Target:
        """The target of that name."""
        module: Any = import_module(f"tests.fuzz.targets.{name}")
        return cls(
            name,
            module.fuzz,
            module.SEEDS,
            getattr(module, "mutate", mutate),
            getattr(module, "close", lambda: None),
            getattr(module, "around", lambda _: []),
        )

    def kept(self) -> list[bytes]:
        """The seeds, and the corpus of the repository."""
        return [*self.seeds, *read_inputs(CORPORA / self.name)]


def read_inputs(directory: Path) -> list[bytes]:
    """The inputs that are kept in ``directory``."""
    return [path.read_bytes() for path in sorted(directory.glob("*"))] if directory.is_dir() else []


@dataclass(frozen=True)
class Finding:
    """An input that shows a fault. ``place`` is where: findings at one place are one."""

    data: bytes
    place: str
    text: str


class Fault(AssertionError):
    """A fault that a target found where the exception does not tell it from others: ``place`` does."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place


def check(target: Target, data: bytes) -> Finding | None:
    """Run one input, without tracing; what it shows."""
    slow: TooSlow | None = None
    for _ in range(3):
        try:
            with limited(allowed(data)):
                target.fuzz(data)
        except TooSlow as error:
            slow = error
            gc.collect()
        except Exception as error:
            return found(error, data)
        else:
            return None
    assert slow is not None
    return found(slow, data)


def found(error: BaseException, data: bytes) -> Finding:
    """What ``error`` says of ``data``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    # Without what runs targets, and what is installed.
    frames = [frame for frame in frames if frame.filename != __file__ and ".venv" not in frame.filename]
    where = f"{Path(frames[-1].filename).relative_to(ROOT)} {frames[-1].name}" if frames else ""
    place = getattr(error, "place", f"{type(error).__name__} {where}")
    text = "".join(traceback.format_exception(error))
    if isinstance(error, TooSlow):
        text = f"{len(data):,} bytes take more than {allowed(data):.1f} s of processor time\n{text}"
    return Finding(data, place, text)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooSlow in what takes more than ``seconds`` of processor time; regular expressions can be ended, too."""

    def late(_number: int, _frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@dataclass(frozen=True)
class Known:
    """A fault that is known and not mended yet: ``input`` is a file of the target's corpus that shows it."""

    target: str
    input: str
    place: str
    why: str


def known_findings() -> list[Known]:
    """Those of ``known.toml``."""
    return [Known(**entry) for entry in tomllib.loads(KNOWN.read_text()).get("finding", [])]


@dataclass
class Run:
    """What came of fuzzing one target.

    ``new`` are the inputs that reached lines which none before had reached; ``known`` counts executions that ended with
    a fault that is known.
    """

    executions: int = 0
    lines: int = 0
    corpus: list[bytes] = field(default_factory=list)
    new: list[bytes] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    known: int = 0


def run(
    target: Target,
    ends: float,
    seed: int,
    *,
    more: Sequence[bytes] = (),
    current: Any = None,
    most: int = _MOST_FINDINGS,
) -> Run:
    """Fuzz ``target`` until ``ends`` (of time.monotonic), or until there are ``most`` findings.

    ``more`` are inputs beside those that the repository keeps. ``current`` holds the input that is running, behind its
    length in four bytes, for what ends the whole process.
    """
    random = Random(seed)
    fuzzer = _Fuzzer(target, current)
    result = fuzzer.result
    for data in (*target.kept(), *more):
        fuzzer.trace(data[:MAX_BYTES])
        result.corpus.append(data[:MAX_BYTES])
    words = fuzzer.coverage.words()
    long = [data[:MAX_BYTES] for each in runs() for data in target.around(each)]
    random.shuffle(long)
    # At most a quarter of the time, so that a short run tries other things as well.
    until = time.monotonic() + (ends - time.monotonic()) / 4
    while long and time.monotonic() < until:
        fuzzer.check(long.pop())
    while time.monotonic() < ends and len(result.findings) < most:
        # The newest are tried more often: what they reach is least explored.
        newest = random.randrange(len(result.corpus)) if random.random() < 0.5 else 0
        at = max(random.randrange(len(result.corpus)), newest)
        data = target.mutate(result.corpus[at], random, result.corpus, words)[:MAX_BYTES]
        if fuzzer.trace(data):
            result.corpus.append(data)
            result.new.append(data)
    result.lines = fuzzer.coverage.lines
    return result


class _Fuzzer:
    """Runs inputs of one target, and notes what they show."""

    def __init__(self, target: Target, current: Any) -> None:
        self.coverage = Coverage()
        self.result = Run()
        self._target = target
        self._current = current
        self._known = {entry.place for entry in known_findings() if entry.target == target.name}

    def trace(self, data: bytes) -> bool:
        """Run an input; whether it reached a new line."""
        self._begin(data)
        before = self.coverage.lines
        try:
            with limited(allowed(data)), self.coverage:
                self._target.fuzz(data)
        except TooSlow:
            # Again without tracing, which may be all that made it slow.
            self._note(check(self._target, data))
        except Exception as error:
            self._note(found(error, data))
        return self.coverage.lines > before

    def check(self, data: bytes) -> None:
        """Run an input without tracing."""
        self._begin(data)
        self._note(check(self._target, data))

    def _begin(self, data: bytes) -> None:
        self.result.executions += 1
        if self._current is not None:
            self._current[: 4 + len(data)] = len(data).to_bytes(4, "big") + data

    def _note(self, finding: Finding | None) -> None:
        if finding is None:
            return
        if finding.place in self._known:
            self.result.known += 1
        else:
            self.result.findings.setdefault(finding.place, finding)


def smallest(target: Target, inputs: Sequence[bytes]) -> list[bytes]:
    """Of ``inputs`` those that are needed to reach all lines that they reach, beyond the seeds; the shortest first."""
    coverage = Coverage()
    needed: list[bytes] = []
    for data in [*target.seeds, *sorted(set(inputs), key=lambda data: (len(data), data))]:
        before = coverage.lines
        with suppress(Exception, TooSlow), limited(allowed(data)), coverage:
            target.fuzz(data)
        if coverage.lines > before and data not in target.seeds:
            needed.append(data)
    return needed
