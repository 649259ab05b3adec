"""When Python looks for what can be collected: less often than it would by itself, and not among what stays."""

from __future__ import annotations

import gc

_OBJECTS_BETWEEN_COLLECTIONS = 20_000


def collect_rarely() -> None:
    """Collect after 20,000 new objects instead of 700.

    A command imports some 900 modules and ends soon. Collecting what they keep, again and again and once more at the
    end, took up to a quarter of the time of a short command.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def keep_everything() -> None:
    """What was imported and set up stays: no collection looks at it again, calls waiting meanwhile."""
    gc.collect()
    gc.freeze()
