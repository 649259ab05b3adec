"""The threat model names tests and sections that there are."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT

_PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_LINK = re.compile(r"\]\(((?:\w+\.md)?)#([\w-]+)\)")


@pytest.mark.parametrize(("path", "name"), sorted(set(_TEST.findall(_PAGE))))
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    code = (ROOT / path).read_text(encoding="utf-8")
    assert name == "" or re.search(rf"^(?:async )?def {name}\(", code, re.MULTILINE)


@pytest.mark.parametrize(("page", "section"), sorted(set(_LINK.findall(_PAGE))))
def test_a_section_that_is_named_is_there(page: str, section: str) -> None:
    text = (ROOT / "docs" / (page or "security.md")).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert section in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
