"""How much an endpoint is asked for at once, and how long it is waited for: learned from how it answers. Pure."""

from __future__ import annotations

# A request that takes longer than this share of its limit may run into the limit the next time.
_COMFORTABLE = 0.5
_SHRINK = 4
_STRETCH = 4


class Pace:
    """Texts in one request, and the seconds that it may take.

    A request that takes too long makes the next ones smaller, down to one text, and then gives them more time, up to
    ``patience``. Those that are answered make them larger again, as far as the limit comfortably allows by the time that
    a text took, and twice as large at the most.
    """

    def __init__(self, *, most: int, limit: float, patience: float) -> None:
        self._most = most
        self._usual = limit
        self._patience = max(limit, patience)
        self.size = most
        self.limit = limit

    def answered(self, texts: int, seconds: float) -> None:
        """A request of ``texts`` was answered after ``seconds``."""
        each = seconds / texts
        # At least what a text takes, so that a slow one is not given up for being the first of its size.
        self.limit = min(self._patience, max(self._usual, each / _COMFORTABLE))
        room = int(self._usual * _COMFORTABLE / each) if each > 0 else self._most
        self.size = max(1, min(self._most, room, max(2 * texts, self.size)))

    def late(self, texts: int, limit: float) -> bool:
        """A request of ``texts`` was not answered within ``limit``; whether it is worth another try."""
        if texts > 1:
            self.size = max(1, min(self.size, texts // _SHRINK))
            return True
        self.size = 1
        if limit >= self._patience:
            self.limit = self._usual
            return False
        self.limit = min(self._patience, limit * _STRETCH)
        return True

    def too_large(self, texts: int) -> bool:
        """A request of ``texts`` was refused, or answered by half; whether a smaller one may fare better."""
        if texts > 1:
            self.size = max(1, min(self.size, texts // 2))
        return texts > 1
