"""The Merkle tree of RFC 6962 (section 2.1), growing one leaf at a time, and the checks of its proofs. Pure.

All hashes of complete subtrees are kept: 64 bytes of memory for each leaf, so a million events take 64 MB. Any root of
an earlier size, and any proof, then takes time that grows with the square of the logarithm, and reads nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256().digest()


def hash_leaf(leaf: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + leaf).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


class MerkleTree:
    """A tree that only grows."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self._levels[0]) // HASH_SIZE

    def append(self, leaf_hash: bytes) -> None:
        """Add a leaf by its hash."""
        node = leaf_hash
        for depth in range(len(self._levels) + 1):
            if depth == len(self._levels):
                self._levels.append(bytearray())
            level = self._levels[depth]
            level += node
            if len(level) % (2 * HASH_SIZE):
                return
            node = hash_children(bytes(level[-2 * HASH_SIZE : -HASH_SIZE]), node)

    def leaf(self, index: int) -> bytes:
        """A leaf's hash."""
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """The root of the tree, or of the tree that it was at ``size``."""
        size = self._checked(size)
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf, from the leaf upwards (section 2.1.1)."""
        size = self._checked(size)
        if not 0 <= index < size:
            raise ValueError("the leaf is not in the tree")
        proof: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                proof.append(self._hash(middle, high))
                high = middle
            else:
                proof.append(self._hash(low, middle))
                low = middle
        return proof[::-1]

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """What proves that the tree of ``first`` leaves is a prefix of that of ``second`` (section 2.1.2)."""
        second = self._checked(second)
        if not 0 <= first <= second:
            raise ValueError("the older tree is larger than the newer one")
        if first in (0, second):
            return []
        proof: list[bytes] = []
        low, high, whole = 0, second, True
        while first != high:
            middle = low + _split(high - low)
            if first <= middle:
                proof.append(self._hash(middle, high))
                high = middle
            else:
                proof.append(self._hash(low, middle))
                low, whole = middle, False
        if not whole:
            proof.append(self._hash(low, high))
        return proof[::-1]

    def _checked(self, size: int | None) -> int:
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError("the tree never had that size, or not yet")
        return size

    def _hash(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1) == 0:  # a complete subtree: its beginning is a multiple of its size
            depth = count.bit_length() - 1
            return self._node(depth, low >> depth)
        middle = low + _split(count)
        return hash_children(self._hash(low, middle), self._hash(middle, high))

    def _node(self, depth: int, index: int) -> bytes:
        return bytes(self._levels[depth][index * HASH_SIZE : (index + 1) * HASH_SIZE])


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows that the leaf is in the tree with that root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, node = index, size - 1, leaf_hash
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            node = hash_children(step, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = hash_children(node, step)
        place, last = place >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether ``proof`` shows that one tree is a prefix of the other (RFC 9162, section 2.1.4.2)."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if not 0 < first < second or not proof:
        return False
    steps = list(proof) if first & (first - 1) else [first_root, *proof]
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            older, newer = hash_children(step, older), hash_children(step, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = hash_children(newer, step)
        place, last = place >> 1, last >> 1
    return last == 0 and older == first_root and newer == second_root


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)
