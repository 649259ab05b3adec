"""Tokens: text as the numbers a BERT-like model reads, cut to its length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

TokenIds = NDArray[np.int64]

# No English text has words this long on average, so that cutting by characters first changes nothing but the time
# that a text of megabytes takes.
_CHARACTERS_PER_TOKEN = 100


def well_formed(text: str) -> str:
    """Return ``text`` with lone surrogates replaced by "?", which no encoder accepts."""
    return text.encode("utf-8", "replace").decode("utf-8")


class WordPieces:
    """A model's tokenizer. Threads may share it; its native code releases the GIL."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        # Cutting and padding are done here, per call, not by whatever the file happens to ask for.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A text that spells out "[SEP]" is only text; it must not forge the border between question and passage.
        self._tokenizer.encode_special_tokens = True
        self._begin = self._special("[CLS]")
        self._end = self._special("[SEP]")

    def passages(self, texts: Sequence[str], max_tokens: int) -> list[TokenIds]:
        """Ids of each text with its special tokens, at most ``max_tokens`` of them, in the order given."""
        return [self._framed(ids[: max_tokens - 2]) for ids in self._ids(texts, max_tokens)]

    def pair(self, question: str, passage: str, max_tokens: int) -> tuple[TokenIds, TokenIds]:
        """Ids and segment numbers of a question and a passage read together, at most ``max_tokens`` of them.

        The passage is cut, the question only beyond half of the length: a question is short, and both must be read.
        """
        first, second = self._ids([question, passage], max_tokens)
        head = self._framed(first[: max_tokens // 2 - 2])
        tail = np.array([*second[: max_tokens - len(head) - 1], self._end], dtype=np.int64)
        segments = np.concatenate([np.zeros_like(head), np.ones_like(tail)])
        return np.concatenate([head, tail]), segments

    def count(self, text: str) -> int:
        """How many tokens ``text`` takes, special tokens included, before any cutting."""
        encoded = self._tokenizer.encode_batch_fast([well_formed(text)], add_special_tokens=False)
        return len(encoded[0].ids) + 2

    def _ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        cut = [well_formed(text[: max_tokens * _CHARACTERS_PER_TOKEN]) for text in texts]
        # The batch call, even for one text, because it is the one that releases the GIL.
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(cut, add_special_tokens=False)]

    def _framed(self, ids: Sequence[int]) -> TokenIds:
        return np.array([self._begin, *ids, self._end], dtype=np.int64)

    def _special(self, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token} token")
        return number
