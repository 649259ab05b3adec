"""Compare the table in docs/endpoints.md with the shapes that the tests try; with --write, replace it.

``make docs`` calls this with --write, and tests/unit/test_endpoint_shapes.py without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.completions import ANSWER, Shape
from tests.support.endpoint_shapes import GROUPS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "endpoints.md"
_BEGIN = "<!-- What follows is written by `make docs` from tests/support/endpoint_shapes.py. -->\n"
_TEST = "tests/unit/test_endpoint_shapes.py"


def shape_id(group: str, shape: Shape) -> str:
    """The id of the test that tries a shape."""
    return f"{group.rsplit(maxsplit=1)[-1].lower()}-{shape.name}"


def table() -> str:
    """The table, in Markdown."""
    count = sum(len(shapes) for shapes in GROUPS.values())
    lines = [
        f"{count} shapes, each tried by the named test of `{_TEST}`, cut into pieces of 1, 2, 7 and 4,096 bytes.",
        "",
    ]
    for group, shapes in GROUPS.items():
        lines += [f"### {group}", "", "| Shape | What happens | Tested by |", "|---|---|---|"]
        lines += [
            f"| {_cell(shape.words)} | {_cell(_outcome(shape))} | `test_shape[{shape_id(group, shape)}]` |"
            for shape in shapes
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _outcome(shape: Shape) -> str:
    if shape.answer is None:
        counted = "" if shape.blamed else "; not counted by the breaker"
        return f"the next endpoint is asked: “{shape.reason}”{counted}"
    if not shape.answer:
        return "an abstention"
    said = "the answer" if shape.answer == ANSWER else "the answer, up to `max_tokens`"
    if shape.answer != ANSWER and len(shape.answer) < 200:
        said = f"`{shape.answer}`".replace("\n", " ⏎ ") if "`" not in shape.answer else f"`` {shape.answer} ``"
    if shape.usage is not None:
        read, written = (str(count) if count else "estimated" for count in shape.usage)
        said = f"{read} tokens read, {written} written"
    warned = f", with the warning `{shape.warnings[0]}`" if shape.warnings else ""
    return f"{said}{warned}{f' ({shape.note})' if shape.note else ''}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ⏎ ")


def main(arguments: Sequence[str] | None = None, *, page: Path = PAGE) -> int:
    """Run with command line ``arguments``; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare docs/endpoints.md with what the tests try.")
    parser.add_argument("--write", action="store_true", help="replace the table instead of comparing it")
    write = parser.parse_args(arguments).write
    head, mark, _ = page.read_text().partition(_BEGIN)
    expected = f"{head}{mark or _BEGIN}\n{table()}"
    if write:
        page.write_text(expected)
        return 0
    if page.read_text() == expected:
        return 0
    print(f"{page.name}: the table differs from what the tests try; run `make docs`")  # noqa: T201 - this is a command
    return 1


if __name__ == "__main__":
    sys.exit(main())
