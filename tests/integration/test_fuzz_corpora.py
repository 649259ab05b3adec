"""What fuzzing has found once stays found: every input that is kept is tried again."""

from __future__ import annotations

import pytest

from tests.fuzz.engine import CORPORA, Finding, Target, digest, found, known_findings, names


def failure(target: Target, data: bytes) -> Finding | None:
    """What the input shows, without a look at the time it takes."""
    try:
        target.fuzz(data)
    except Exception as error:  # noqa: BLE001 - every exception is a fault
        return found(error, data)
    return None


@pytest.mark.parametrize("name", names())
def test_kept_inputs_show_no_fault_but_those_that_are_known(name: str) -> None:
    target = Target.load(name)
    known = {entry.input: entry.place for entry in known_findings() if entry.target == name}
    places = set(known.values())
    try:
        for data in target.kept():
            expected = known.get(digest(data))
            if expected is not None and expected.startswith("TooSlow"):
                continue
            finding = failure(target, data)
            if expected is not None:
                assert finding is not None, f"{digest(data)} is mended: remove it from known.toml"
                assert finding.place == expected
            assert finding is None or finding.place in places, finding.text
    finally:
        target.close()


def test_corpora_hold_small_inputs_of_targets_named_by_their_contents() -> None:
    files = [path for path in CORPORA.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.parent.name in names()
        assert path.name == digest(path.read_bytes())
        assert path.stat().st_size <= 16 * 1024
    for entry in known_findings():
        assert (CORPORA / entry.target / entry.input).is_file(), entry
