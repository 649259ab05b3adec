"""The operator learns why callers were refused, and no caller can fill the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.security.refusal import WORDS, Explanation, Refusal, Signature
from services.security.refusal_log import PROVEN, SUMMARY_AFTER, UNPROVEN, RefusalLog
from tests.support.token_forge import Clock


class World:
    """A log whose lines are kept, and whose time and timer a test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lines: list[dict[str, Any]] = []
        self.rest: list[dict[str, Any]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.log = RefusalLog(
            lambda event, **facts: self.lines.append({"event": event, **facts}),
            lambda event, **facts: self.rest.append({"event": event, **facts}),
            clock=self.clock,
            later=self.later,
        )

    def later(self, seconds: float, do: Callable[[], None]) -> Callable[[], None]:
        """Keep it, until the test fires or it is taken back."""
        timer = (seconds, do)
        self.timers.append(timer)
        return lambda: self.timers.remove(timer)

    def fire(self) -> None:
        """The timer's time has come."""
        ((_, do),) = self.timers
        self.timers.clear()
        do()


def explanation(
    reason: Refusal = Refusal.LIFETIME, issuer: str = "https://a.example", signature: Signature = Signature.VALID
) -> Explanation:
    return Explanation(reason, WORDS[reason], issuer, signature)


def test_there_are_words_for_each_reason() -> None:
    assert set(WORDS) == set(Refusal)
    assert len(set(WORDS.values())) == len(WORDS)


def test_a_line_says_why_and_of_whose_token() -> None:
    world = World()
    world.log.refused(explanation())
    world.log.refused(explanation(Refusal.MISSING, "", Signature.UNKNOWN))
    assert world.lines == [
        {
            "event": "caller refused",
            "reason": "lifetime",
            "why": WORDS[Refusal.LIFETIME],
            "signature": "valid",
            "issuer": "https://a.example",
        },
        {"event": "caller refused", "reason": "missing", "why": WORDS[Refusal.MISSING], "signature": "unknown"},
    ]


def test_what_every_caller_can_cause_is_bounded_whatever_the_tokens_say() -> None:
    world = World()
    unproven = (Signature.UNKNOWN, Signature.INVALID)
    seconds = 600
    for n in range(seconds * 100):
        world.clock.now += 0.01
        reasons = list(Refusal)
        world.log.refused(explanation(reasons[n % len(reasons)], f"https://{n % 3}.example", unproven[n % 2]))
    most = len(Refusal) * (UNPROVEN.burst + seconds / UNPROVEN.seconds + 1)
    assert len(world.lines) <= most
    assert len(world.lines) + len(world.rest) == seconds * 100


def test_a_flood_of_made_up_tokens_leaves_no_line_less_for_real_ones() -> None:
    world = World()
    for _ in range(1000):
        world.log.refused(explanation(signature=Signature.INVALID))
    world.lines.clear()
    for _ in range(PROVEN.burst):
        world.log.refused(explanation())
    assert len(world.lines) == PROVEN.burst
    # Nor does one issuer's flood, or one reason's, for another.
    for _ in range(1000):
        world.log.refused(explanation())
    world.lines.clear()
    world.log.refused(explanation(issuer="https://b.example"))
    world.log.refused(explanation(Refusal.AUDIENCE))
    assert len(world.lines) == 2


def test_lines_come_back_with_time() -> None:
    world = World()
    for _ in range(100):
        world.log.refused(explanation())
    assert len(world.lines) == PROVEN.burst
    for _ in range(3):
        world.clock.now += PROVEN.seconds
        world.log.refused(explanation())
        world.log.refused(explanation())
    assert len(world.lines) == PROVEN.burst + 3
    world.clock.now += 10_000
    for _ in range(100):
        world.log.refused(explanation())
    assert len(world.lines) == 2 * PROVEN.burst + 3


def test_what_was_not_written_is_counted_in_one_line() -> None:
    world = World()
    for _ in range(PROVEN.burst + 7):
        world.log.refused(explanation())
    for _ in range(UNPROVEN.burst + 5):
        world.log.refused(explanation(Refusal.MISSING, "", Signature.UNKNOWN))
    assert [seconds for seconds, _ in world.timers] == [SUMMARY_AFTER]
    world.fire()
    assert world.lines[-1] == {
        "event": "more callers were refused than were logged",
        "by_reason": {"lifetime": 7, "missing": 5},
        "seconds": SUMMARY_AFTER,
    }
    world.log.refused(explanation())
    world.fire()
    assert world.lines[-1]["by_reason"] == {"lifetime": 1}


def test_the_counts_are_written_at_the_end() -> None:
    world = World()
    world.log.close()
    assert world.lines == []
    for _ in range(PROVEN.burst + 1):
        world.log.remark("https://a.example", "2 groups do not count")
    world.log.close()
    assert world.timers == []
    assert world.lines[0] == {
        "event": "token accepted in part",
        "why": "2 groups do not count",
        "issuer": "https://a.example",
    }
    assert world.lines[-1]["by_reason"] == {"remark": 1}
