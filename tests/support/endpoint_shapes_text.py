"""Shapes of citation markers and of usage; the list of all shapes is tests/support/endpoint_shapes.py."""

from __future__ import annotations

from typing import Any

from tests.support.completions import ANSWER, COUNTED, DONE, STOP, Shape, deltas, event, told, usage


def _marker(name: str, written: str, shown: str, words: str = "", **more: Any) -> Shape:
    return Shape(name, f"`{written}`{f' ({words})' if words else ''}", told(written), answer=shown, **more)


MARKERS: tuple[Shape, ...] = (
    _marker("list", "The fee is due [1, 2].", "The fee is due [1][2]."),
    _marker("and", "The fee is due [1 and 2].", "The fee is due [1][2]."),
    _marker("range", "The fee is due [1-2].", "The fee is due [1][2]."),
    _marker("range-dash", "The fee is due [1–2].", "The fee is due [1][2]."),
    _marker("range-beyond", "The fee is due [2-9].", "The fee is due [2].", "there are two sources"),
    _marker("full-width", "The fee is due ［1］.", "The fee is due [1]."),
    _marker("full-width-digit", "The fee is due ［１］.", "The fee is due [1]."),
    _marker("lenses", "The fee is due【1】.", "The fee is due[1]."),
    _marker("dagger", "The fee is due 【1†source】.", "The fee is due [1]."),
    _marker("caret", "The fee is due [^1].", "The fee is due [1]."),
    _marker("carets", "The fee is due [^1^].", "The fee is due [1]."),
    _marker("double", "The fee is due [[1]].", "The fee is due [1]."),
    _marker("blanks", "The fee is due [ 1 ].", "The fee is due [1]."),
    _marker("source", "The fee is due [Source 1].", "The fee is due [1]."),
    _marker("sources", "The fee is due [Sources 1 and 2].", "The fee is due [1][2]."),
    _marker("document", "The fee is due [Doc 1].", "The fee is due [1]."),
    _marker("quelle", "Die Gebühr ist fällig [Quelle 1].", "Die Gebühr ist fällig [1]."),
    _marker("citation", "The fee is due [citation:1].", "The fee is due [1]."),
    _marker("page", "The fee is due [1, p. 3].", "The fee is due [1]."),
    _marker("round-source", "The fee is due (Source 1).", "The fee is due [1]."),
    _marker("round-see", "The fee is due (see source 2).", "The fee is due [2]."),
    _marker("round", "The fee is due (1).", "The fee is due [1].", "no other marker in the text"),
    _marker("tag", 'The fee is due <source number="1">.', "The fee is due [1]."),
    _marker("sup", "The fee is due<sup>[1]</sup>.", "The fee is due[1]."),
    _marker("superscript", "The fee is due.¹", "The fee is due.[1]", "no other marker in the text"),
    _marker("unknown", "The fee is due [1][9].", "The fee is due [1]."),
    _marker("unknown-range", "The fee is due [1]. Monthly [5-9].", "The fee is due [1]. Monthly."),
    _marker("unknown-source", "The fee is due [1]. Monthly [Source 9].", "The fee is due [1]. Monthly."),
    _marker("unknown-dagger", "The fee is due [1]. Monthly 【4:0†source】.", "The fee is due [1]. Monthly."),
    _marker("unknown-alone", "The fee is due [9].", ""),
    _marker("year", "The list [2024] says it is due [1].", "The list [2024] says it is due [1]."),
    _marker("years", "In [1990-1995] it was due [1].", "In [1990-1995] it was due [1]."),
    _marker("index", "It is in arr[9] and due [1].", "It is in arr[9] and due [1]."),
    _marker("interval", "A share in [0, 1] is due [1].", "A share in [0, 1] is due [1]."),
    _marker("quoted", "The list has [12] entries [1].", "The list has [12] entries [1].", "the source has it, too"),
    _marker("amount", "It costs [42] euros [1].", "It costs [42] euros [1].", "a number of the source's"),
    _marker("round-number", "Five (5) days and (1) berth are due [1].", "Five (5) days and (1) berth are due [1]."),
    _marker("words", "A [very high] fee is due [1].", "A [very high] fee is due [1]."),
)  # fmt: skip

USAGE: tuple[Shape, ...] = (
    Shape("counted", "`usage` with both counts", told(ANSWER), usage=(100, 20)),
    Shape("floats", "`usage` in floats", deltas(ANSWER) + STOP + usage({"prompt_tokens": 11.0, "completion_tokens": 7.0}), usage=(11, 7)),
    Shape("strings", "`usage` in strings", deltas(ANSWER) + STOP + usage({"prompt_tokens": "11", "completion_tokens": "7"}), usage=(11, 7)),
    Shape("other-names", "`input_tokens`, `output_tokens`", deltas(ANSWER) + STOP + usage({"input_tokens": 11, "output_tokens": 7}), usage=(11, 7)),
    Shape("total", "`total_tokens` and one of them", deltas(ANSWER) + STOP + usage({"prompt_tokens": 11, "total_tokens": 18}), usage=(11, 7)),
    Shape("every-chunk", "`usage` in every chunk, growing",
          usage({"prompt_tokens": 11, "completion_tokens": 1}) + deltas(ANSWER) + usage({"prompt_tokens": 11, "completion_tokens": 7}) + STOP,
          usage=(11, 7)),
    Shape("then-empty", "`usage`, and then an empty one", deltas(ANSWER) + STOP + COUNTED + usage({}) + usage(None), usage=(100, 20)),
    Shape("none", "no `usage`", deltas(ANSWER) + STOP + DONE, usage=(0, 8), note="estimated"),
    Shape("empty-usage", "`usage: {}`", deltas(ANSWER) + STOP + usage({}), usage=(0, 8), note="estimated"),
    Shape("zeros", "counts of 0", deltas(ANSWER) + STOP + usage({"prompt_tokens": 0, "completion_tokens": 0}), usage=(0, 8), note="estimated"),
    Shape("negative", "negative counts, `true`, NaN, more than can be",
          deltas(ANSWER) + STOP + usage({"prompt_tokens": -5, "completion_tokens": True})
          + event(b'{"usage": {"prompt_tokens": NaN, "completion_tokens": 1e300}}'), usage=(0, 8), note="estimated"),
    Shape("enormous", "integers of 400 and of 5,000 digits", deltas(ANSWER) + STOP + event(b'{"usage": {"prompt_tokens": 1%s}}' % (b"0" * 400))
          + event(b'{"usage": {"completion_tokens": 1%s, "total_tokens": -1%s}}' % (b"0" * 5000, b"0" * 400)), usage=(0, 8), note="estimated"),
    Shape("half", "one count only", deltas(ANSWER) + STOP + usage({"prompt_tokens": None, "completion_tokens": 7}), usage=(0, 7),
          note="the other is estimated"),
    Shape("thoughts-estimated", "no `usage`, and thoughts", deltas(f"<think>{'x' * 3986}</think>\n\n{ANSWER}") + STOP, usage=(0, 1009),
          note="estimated, thoughts included"),
)  # fmt: skip
