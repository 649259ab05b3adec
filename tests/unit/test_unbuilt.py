"""RPCs that the contract has and this release does not."""

from __future__ import annotations

import pytest

from services.corpus.errors import NotYetImplemented
from services.runtime.unbuilt import unbuilt, unbuilt_methods


class Servicer:
    Query = unbuilt
    Watch = unbuilt

    async def Built(self, _request: object, _context: object) -> str:  # noqa: N802 - as in a contract
        return "built"


class Later(Servicer):
    """A subclass that builds one of them."""

    async def Query(self, _request: object, _context: object) -> str:  # noqa: N802 - as in a contract
        return "built"


async def test_it_says_that_it_is_not_offered_yet() -> None:
    with pytest.raises(NotYetImplemented) as caught:
        await Servicer().Query(object(), object())
    assert caught.value.reason == "NOT_IMPLEMENTED"


def test_the_methods_are_listed() -> None:
    assert unbuilt_methods(Servicer) == {"Query", "Watch"}
    assert unbuilt_methods(Later) == {"Watch"}
    assert unbuilt_methods(object) == frozenset()
