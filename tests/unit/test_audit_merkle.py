"""The Merkle tree against RFC 6962's definition, written down naively, and the vectors of Certificate Transparency."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.merkle import MerkleTree, hash_leaf, verify_consistency, verify_inclusion

LEAVES = [bytes.fromhex(text) for text in (
    *("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"),
)]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = naive_split(len(leaves))
    return hashlib.sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_split(count: int) -> int:
    split = 1
    while split * 2 < count:
        split *= 2
    return split


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = naive_split(len(leaves))
    if index < split:
        return [*naive_path(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_path(index - split, leaves[split:]), naive_root(leaves[:split])]


def naive_consistency(first: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    if first == len(leaves):
        return [] if whole else [naive_root(leaves)]
    split = naive_split(len(leaves))
    if first <= split:
        return [*naive_consistency(first, leaves[:split], whole), naive_root(leaves[split:])]
    return [*naive_consistency(first - split, leaves[split:], whole=False), naive_root(leaves[:split])]


def tree_of(leaves: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(hash_leaf(leaf))
    return tree


def test_the_vectors_of_certificate_transparency() -> None:
    tree = tree_of(LEAVES)
    assert tree.root(0).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tuple(tree.root(size).hex() for size in range(1, 9)) == ROOTS
    assert [node.hex() for node in tree.inclusion_proof(5, 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [node.hex() for node in tree.consistency_proof(6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_proof_of_small_trees_is_the_definitions() -> None:
    leaves = [bytes([n]) for n in range(33)]
    tree = tree_of(leaves)
    for size in range(34):
        root = naive_root(leaves[:size])
        assert tree.root(size) == root
        for index in range(size):
            proof = tree.inclusion_proof(index, size)
            assert proof == naive_path(index, leaves[:size])
            assert verify_inclusion(hash_leaf(leaves[index]), index, size, proof, root)
        for first in range(size + 1):
            proof = tree.consistency_proof(first, size)
            if first:
                assert proof == naive_consistency(first, leaves[:size])
            assert verify_consistency(first, size, proof, tree.root(first), root)


@settings(max_examples=300)
@given(st.data())
def test_no_changed_proof_verifies(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 70))
    tree = tree_of([bytes([n]) for n in range(size)])
    root = tree.root()
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size - 1))
    inclusion, consistency = tree.inclusion_proof(index), tree.consistency_proof(first)

    def changed(proof: list[bytes]) -> list[bytes]:
        proof = list(proof)
        kind = data.draw(st.sampled_from(["flip", "drop", "add", "swap"]))
        at = data.draw(st.integers(0, len(proof) - 1)) if proof else 0
        if kind == "flip" and proof:
            proof[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        elif kind == "drop" and proof:
            del proof[at]
        elif kind == "swap" and len(proof) > 1 and at:
            proof[0], proof[at] = proof[at], proof[0]
        else:
            proof.insert(at, bytes(32))
        return proof

    leaf = tree.leaf(index)
    assert not verify_inclusion(leaf, index, size, changed(inclusion), root)
    assert not verify_consistency(first, size, changed(consistency), tree.root(first), root)
    assert not verify_inclusion(bytes(32), index, size, inclusion, root)
    assert not verify_inclusion(leaf, (index + 1) % size, size, inclusion, root)
    assert not verify_consistency(first, size, consistency, bytes(32), root)
    assert not verify_consistency(first, size, consistency, tree.root(first), bytes(32))


def test_what_is_not_in_the_tree_has_no_proof() -> None:
    tree = tree_of([b"a", b"b"])
    for wrong in ((2, 2), (0, 3), (-1, 2)):
        with pytest.raises(ValueError, match="tree"):
            tree.inclusion_proof(*wrong)
    for wrong in ((2, 1), (1, 3), (-1, 1)):
        with pytest.raises(ValueError, match="tree"):
            tree.consistency_proof(*wrong)
    assert not verify_inclusion(bytes(32), 3, 2, [], bytes(32))
    assert not verify_consistency(3, 2, [], bytes(32), bytes(32))
