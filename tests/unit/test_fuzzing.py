"""The driver of ``make fuzz``: it finds what is planted, tells findings apart, and takes a slow input for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from groundwire.common.v1 import filter_pb2
from services.generation.completions.ending import read_finish
from tests.fuzz import engine, runner
from tests.fuzz.engine import Fault, Known, Run, Target, check, smallest
from tests.fuzz.messages import mutate_message
from tests.fuzz.mutations import MAX_BYTES, mutate
from tests.fuzz.source import Source
from tests.fuzz.targets import filters


def target(fuzz: Callable[[bytes], None], *seeds: bytes) -> Target:
    return Target("planted", fuzz, seeds, mutate, lambda: None)


def run(planted: Target, seed: int) -> Run:
    """Until there is a finding."""
    return engine.run(planted, time.monotonic() + 60.0, seed, most=1)


def planted(data: bytes) -> None:
    reason = read_finish(data.decode("utf-8", "replace"))
    if reason is not None and reason.value == "filtered":
        raise RuntimeError("planted")


@pytest.mark.parametrize("seed", range(3))
def test_a_word_that_the_code_knows_is_found(seed: int) -> None:
    result = run(target(planted, b"stop"), seed)
    [finding] = result.findings.values()
    assert finding.place == "RuntimeError tests/unit/test_fuzzing.py planted"
    assert "planted" in finding.text
    assert check(target(planted), finding.data) is not None
    assert result.executions > 1


def test_findings_at_one_place_are_one_and_known_ones_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fuzz(data: bytes) -> None:
        if data[:1] > b"m":
            raise Fault("late", repr(data))
        raise Fault("early", repr(data))

    monkeypatch.setattr(engine, "known_findings", lambda: [Known("planted", "", "early", "")])
    result = engine.run(target(fuzz, b"a", b"b", b"x", b"y"), 0.0, 0)
    assert [finding.data for finding in result.findings.values()] == [b"x"]
    assert (result.executions, result.known) == (4, 2)


def test_an_input_that_takes_long_each_time_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "allowed", lambda _: 0.01)
    calls = []

    def fuzz(data: bytes) -> None:
        calls.append(data)
        while data == b"slow" or (data == b"once" and calls.count(b"once") == 1):
            pass

    finding = check(target(fuzz), b"slow")
    assert finding is not None
    assert finding.place.startswith("TooSlow")
    assert calls.count(b"slow") == 3
    assert check(target(fuzz), b"once") is None
    assert check(target(fuzz), b"quick") is None


def test_a_run_is_repeated_by_its_seed() -> None:
    words = [b"one", b"two"]
    once, again = ([mutate(b"seed" * 9, Random(5), [b"other"], words) for _ in range(3)] for _ in range(2))
    assert once == again
    for seed in range(300):
        data = mutate(b"some text 42 \xff", Random(seed), [b"other"], words)
        assert len(data) <= MAX_BYTES
    message = filters.SEEDS[0][1:]
    changed = [mutate_message(filter_pb2.Filter, message, Random(seed), (), words) for seed in range(50)]
    assert len(set(changed)) > 25


def test_few_inputs_reach_what_many_reach() -> None:
    def fuzz(data: bytes) -> None:
        read_finish({"type": "stop"} if data.startswith(b"{") else data.decode("utf-8", "replace"))

    assert smallest(target(fuzz, b"stop"), [b"{{{{", b"{", b"eos", b"other"]) == [b"{"]


def test_a_source_gives_texts_from_the_front_and_numbers_from_the_end() -> None:
    source = Source(b"one\xfft\xc3\xa4\xffrest\x05")
    assert (source.number(), source.text(), source.text(), bool(source), source.part()) == (
        5,
        "one",
        "tä",
        True,
        b"rest",
    )
    assert (source.text(), source.number(300), bool(source)) == ("", 0, False)
    assert [list(piece) for piece in Source(b"\x02\x01\x02").cuts("abc")] == [["a"], ["b"], ["c"]]


def test_an_input_that_ended_its_process_is_a_finding() -> None:
    job = runner.Job("sse", None, None, (3).to_bytes(4, "big") + b"abcrest", 0.0)
    result = runner.broke(job, "the process ended with -11")
    assert [finding.data for finding in result.findings.values()] == [b"abc"]
