"""An erasure's arithmetic: what was removed is what is missing, and done is what was counted to be nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.corpus.erasure import Erasure, ErasureStep, begin, new_receipt_id

NOW = datetime(2026, 5, 17, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def begun(*stores: str, version: int = 3, last_version: int = 3, chunks: int = 4) -> Erasure:
    return begin(
        receipt_id="r",
        tenant="t",
        collection="c",
        document_id="d",
        owner="user:alice",
        version=version,
        last_version=last_version,
        chunks=chunks,
        stores=stores,
        now=NOW,
    )


def test_it_begins_with_the_catalog_done() -> None:
    erasure = begun("a", "b")
    assert erasure.steps == (ErasureStep("catalog", 1, 0, NOW), ErasureStep("a", 0, 4), ErasureStep("b", 0, 4))
    assert (erasure.before_version, erasure.unsettled, erasure.complete_time) == (4, False, None)
    assert begun().complete_time == NOW
    late = begun("a", version=3, last_version=5)
    assert (late.before_version, late.unsettled) == (6, True)


def test_it_is_complete_when_the_last_place_is() -> None:
    erasure = begun("a", "b").counted("a", 0, LATER)
    assert erasure.steps[1:] == (ErasureStep("a", 4, 0, LATER), ErasureStep("b", 0, 4))
    assert erasure.complete_time is None
    erasure = erasure.counted("b", 1, LATER)
    assert erasure.steps[2] == ErasureStep("b", 3, 1)
    erasure = erasure.counted("b", 0, LATER)
    assert erasure.steps[2] == ErasureStep("b", 4, 0, LATER)
    assert erasure.complete_time == LATER


def test_more_than_the_catalog_knew_of_counts_as_well() -> None:
    erasure = begun("a").counted("a", 9, LATER)
    assert erasure.steps[1] == ErasureStep("a", 0, 9)
    assert erasure.counted("a", 0, LATER).steps[1] == ErasureStep("a", 9, 0, LATER)


def test_nothing_is_done_while_something_may_still_arrive() -> None:
    erasure = begun("a").counted("a", 0, LATER, final=False)
    assert erasure.steps[1] == ErasureStep("a", 4, 0)
    assert erasure.complete_time is None
    erasure = erasure.counted("a", 2, LATER, final=False).counted("a", 0, LATER, final=True)
    assert erasure.steps[1] == ErasureStep("a", 6, 0, LATER)
    assert erasure.complete_time == LATER


def test_what_is_done_stays_as_it_was() -> None:
    done = begun("a").counted("a", 0, NOW)
    assert done.counted("a", 3, LATER) == done
    assert done.counted("unknown", 3, LATER) == done


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 5), st.booleans())))
def test_it_is_complete_exactly_when_every_step_is(counts: list[tuple[str, int, bool]]) -> None:
    erasure = begun("a", "b")
    for place, count, final in counts:
        before, erasure = erasure, erasure.counted(place, count, LATER, final=final)
        assert all(new.removed >= old.removed for old, new in zip(before.steps, erasure.steps, strict=True))
        assert before.complete_time in {None, erasure.complete_time}
    done = [step.complete_time is not None for step in erasure.steps]
    assert all(done) == (erasure.complete_time is not None)
    assert all(step.remaining == 0 for step in erasure.steps if step.complete_time)


def test_receipts_have_ids_that_nobody_guesses() -> None:
    made = {new_receipt_id() for _ in range(1000)}
    assert len(made) == 1000
    assert {len(bytes.fromhex(receipt_id)) for receipt_id in made} == {16}
