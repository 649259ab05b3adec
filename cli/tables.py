"""Tables that fit their terminal without breaking a word: columns of names and ids are shortened. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from cli.text import shortened

GAP = 2
# However long a name is, at least so much of it is shown.
LEAST = 12


def fitted_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    width: int,
    *,
    yielding: Sequence[str] = (),
    right: Sequence[str] = (),
) -> Table:
    """A table of at most ``width`` columns; those of the ``yielding`` heads give way, and ``right`` ones are numbers."""
    widths = narrowed(heads, rows, width, [heads.index(head) for head in yielding])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, head in enumerate(heads):
        table.add_column(head, style=None if n else "cyan", justify="right" if head in right else "left")
    for row in rows:
        table.add_row(*(_cell(cell, width) for cell, width in zip(row, widths, strict=True)))
    return table


def narrowed(
    heads: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int, yielding: Sequence[int]
) -> list[int]:
    """Each column's width: what its cells need, but for ``yielding`` ones, the widest first, where that is too much."""
    columns = zip(heads, *rows, strict=True)
    widths = [max(cell_len(line) for cell in column for line in str(cell).split("\n")) for column in columns]
    beyond = sum(widths) + GAP * (len(widths) - 1) - width
    while beyond > 0 and yielding:
        widest = max(yielding, key=widths.__getitem__)
        if widths[widest] <= LEAST:
            break
        widths[widest] -= 1
        beyond -= 1
    return widths


def _cell(cell: str | Text, width: int) -> str | Text:
    if isinstance(cell, Text):
        return cell
    return "\n".join(shortened(line, width) for line in cell.split("\n"))
