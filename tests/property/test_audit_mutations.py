"""Ten thousand changed logs: each is found out, and a log that nobody touched never is.

What an attacker without the log's key does is found by verifying the directory alone; what its holder does (rewriting
the past and signing it again, cutting it, going back to an earlier copy, going on in two ways) by the witness.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from services.audit.event import encode
from services.audit.merkle import MerkleTree, hash_leaf
from services.audit.note import Checkpoint, Note, Verifier
from services.audit.ports import CheckpointRefused
from services.audit.records import FIRST_CHAIN, SignedCheckpoint, extend_chain, read_checkpoint, write_checkpoint
from services.journal.frames import HEADER_SIZE, write_frames, write_header
from services.journal.memory import MemoryFiles
from services.journal.segments import name_of, scan, segment_names
from tests.support.audit_world import LOG, World, cosign, event

pytestmark = pytest.mark.long

MUTATIONS = 10_000
EVENTS = 12


def payloads(files: MemoryFiles) -> list[bytes]:
    return [payload for name in segment_names(files) for _, _, payload in scan(files, name)]


def rewritten(contents: list[bytes]) -> MemoryFiles:
    """A journal that is whole in itself: right lengths, CRCs and sequence numbers."""
    files = MemoryFiles()
    handle = files.create(name_of(0))
    files.write(handle, write_header(0) + write_frames(0, contents)[0])
    files.datasync(handle)
    files.sync_directory()
    return files


def chained(leaves: list[bytes]) -> list[bytes]:
    """Events with a right hash chain."""
    chain, found = FIRST_CHAIN, []
    for leaf in leaves:
        chain = extend_chain(chain, hash_leaf(leaf))
        found.append(chain + leaf)
    return found


def signed_again(leaves: list[bytes], sizes: list[int]) -> MemoryFiles:
    """Checkpoints for other events, by whoever has the log's key."""
    tree, found = MerkleTree(), []
    for leaf in leaves:
        tree.append(hash_leaf(leaf))
    for size in sizes:
        checkpoint = Checkpoint(LOG.verifier.name, size, tree.root(size))
        note = Note(checkpoint.body, ()).with_line(LOG.sign(checkpoint.body))
        found.append(write_checkpoint(SignedCheckpoint(checkpoint, note, 1)))
    return rewritten(found)


@dataclass
class Original:
    """A log of some events, cosigned, and its parts."""

    world: World

    def __post_init__(self) -> None:
        self.events = payloads(self.world.events)
        self.checkpoints = payloads(self.world.checkpoints)
        self.leaves = [payload[32:] for payload in self.events]
        self.sizes = sorted({read_checkpoint(one, (LOG.verifier,)).checkpoint.size for one in self.checkpoints})

    def copy(self) -> World:
        return copy.deepcopy(self.world)


Mutation = Callable[[Original, World, random.Random], None]


def flip(original: Original, world: World, chance: random.Random) -> None:
    files = chance.choice([world.events, world.checkpoints])
    files._files[name_of(0)].content[chance.randrange(files.size(name_of(0)))] ^= 1 << chance.randrange(8)


def cut(original: Original, world: World, chance: random.Random) -> None:
    files = world.events
    files.truncate(name_of(0), chance.randrange(HEADER_SIZE, files.size(name_of(0))))


def remove_bytes(original: Original, world: World, chance: random.Random) -> None:
    content = world.events._files[name_of(0)].content
    at = chance.randrange(len(content))
    del content[at : at + chance.randint(1, 200)]


def insert_bytes(original: Original, world: World, chance: random.Random) -> None:
    content = chance.choice([world.events, world.checkpoints])._files[name_of(0)].content
    at = chance.randrange(len(content))
    content[at:at] = chance.randbytes(chance.randint(1, 40))


def swap_frames(original: Original, world: World, chance: random.Random) -> None:
    changed = list(original.events)
    one, two = chance.sample(range(EVENTS), 2)
    changed[one], changed[two] = changed[two], changed[one]
    world.events = rewritten(changed)


def drop_frame(original: Original, world: World, chance: random.Random) -> None:
    changed = list(original.events)
    del changed[chance.randrange(EVENTS)]
    world.events = rewritten(changed)


def duplicate_frame(original: Original, world: World, chance: random.Random) -> None:
    changed = list(original.events)
    changed.insert(chance.randrange(EVENTS), chance.choice(changed))
    world.events = rewritten(changed)


def change_event(original: Original, world: World, chance: random.Random) -> None:
    changed = list(original.events)
    at = chance.randrange(EVENTS)
    changed[at] = changed[at][:32] + changed[at][32:].replace(b"alice", b"mallo")
    world.events = rewritten(changed)


def change_event_and_chain(original: Original, world: World, chance: random.Random) -> None:
    world.events = rewritten(chained(changed_leaves(original, chance)))


def sign_with_another_key(original: Original, world: World, chance: random.Random) -> None:
    at = chance.randrange(len(original.checkpoints))
    changed = list(original.checkpoints)
    note = read_checkpoint(changed[at], (LOG.verifier,)).note
    wrong = bytearray(changed[at])
    place = bytes(wrong).index(b" ", bytes(wrong).index("—".encode()) + 4) + 12
    wrong[place] = ord("A") if wrong[place] != ord("A") else ord("B")
    changed[at] = bytes(wrong)
    assert str(note).encode() != wrong[8:]
    world.checkpoints = rewritten(changed)


def remove_checkpoints(original: Original, world: World, chance: random.Random) -> None:
    world.checkpoints = MemoryFiles()


# --- with the log's key ---------------------------------------------------------------------------------------------


def changed_leaves(original: Original, chance: random.Random) -> list[bytes]:
    leaves = list(original.leaves)
    kind = chance.randrange(4)
    at = chance.randrange(EVENTS - 1)  # one more at the end would be no change of what was
    if kind == 0:
        leaves[at] = encode(event(chance.randrange(10_000, 20_000)))
    elif kind == 1:
        del leaves[at]
        leaves.append(encode(event(chance.randrange(10_000, 20_000))))
    elif kind == 2:
        leaves.insert(at, leaves[at])
    else:
        other = (at + 1 + chance.randrange(EVENTS - 1)) % EVENTS
        leaves[at], leaves[other] = leaves[other], leaves[at]
    return leaves


def sign_again(original: Original, world: World, chance: random.Random) -> None:
    leaves = changed_leaves(original, chance)
    world.events = rewritten(chained(leaves))
    world.checkpoints = signed_again(leaves, [*(size for size in original.sizes if size <= len(leaves)), len(leaves)])


def roll_back(original: Original, world: World, chance: random.Random) -> None:
    size = chance.choice(original.sizes[:-1])
    world.events = rewritten(original.events[:size])
    world.checkpoints = signed_again(original.leaves, [one for one in original.sizes if one <= size])


def cut_and_sign(original: Original, world: World, chance: random.Random) -> None:
    size = chance.randrange(1, EVENTS)
    world.events = rewritten(original.events[:size])
    world.checkpoints = signed_again(original.leaves, [size])


def fork(original: Original, world: World, chance: random.Random) -> None:
    size = chance.randrange(1, EVENTS)
    more = [encode(event(chance.randrange(10_000, 20_000) + n)) for n in range(chance.randint(1, 40))]
    leaves = original.leaves[:size] + more
    world.events = rewritten(chained(leaves))
    world.checkpoints = signed_again(leaves, [len(leaves)])


WITHOUT_KEY = (
    *(flip, cut, remove_bytes, insert_bytes, swap_frames, drop_frame, duplicate_frame),
    *(change_event, change_event_and_chain, sign_with_another_key, remove_checkpoints),
)
WITH_KEY = (sign_again, roll_back, cut_and_sign, fork)


def witness_refuses(world: World) -> bool:
    """Whether the witness would sign nothing of this log, whatever the holder of its key claims and proves."""
    tree = MerkleTree()
    for payload in payloads(world.events):
        tree.append(hash_leaf(payload[32:]))
    newest = read_checkpoint(payloads(world.checkpoints)[-1], (LOG.verifier,))
    witness = world.witness()
    assert witness.last
    seen = witness.last[1].size
    claims = [(seen, tree.consistency_proof(seen) if seen <= tree.size else []), (seen, []), (0, [])]
    for old_size, proof in claims:
        try:
            witness.cosign(old_size, proof, str(newest.note))
        except CheckpointRefused:
            continue
        return False
    return True


async def make() -> Original:
    world = World()
    log = await world.open()
    witness = world.witness()
    for first in range(0, EVENTS, 6):
        await log.append([event(n) for n in range(first, first + 6)])
        await log.sign()
        await cosign(log, witness)
    await log.close()
    return Original(world)


@pytest.mark.slow
async def test_ten_thousand_changed_logs_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same signatures are verified again and again.
    monkeypatch.setattr(Verifier, "verify", functools.lru_cache(10_000)(Verifier.verify))
    original = await make()
    known = original.world.witness().last
    assert known
    chance = random.Random(6962)
    kinds: tuple[Mutation, ...] = (*WITHOUT_KEY, *WITH_KEY)
    missed: list[str] = []
    for number in range(MUTATIONS):
        kind = kinds[number % len(kinds)]
        world = original.copy()
        kind(original, world, chance)
        if payloads_or_none(world) == (original.events, original.checkpoints):
            continue
        report = world.verify()
        if kind in WITH_KEY:
            assert report.intact, (kind.__name__, report.problems)
            found = witness_refuses(world) and not world.verify(str(known[0])).intact
        else:
            found = not report.intact
        if not found:
            missed.append(f"{number} {kind.__name__}")
    assert missed == [], len(missed)


def payloads_or_none(world: World) -> object:
    """What a log holds; None for one that is not whole."""
    try:
        return payloads(world.events), payloads(world.checkpoints)
    except Exception:  # noqa: BLE001 - any kind of damage
        return None


async def test_no_false_alarm() -> None:
    world = World()
    witness = world.witness()
    chance = random.Random(1)
    place = 0
    for _ in range(30):
        log = await world.open()
        for _ in range(chance.randint(0, 3)):
            count = chance.randint(1, 9)
            await log.append([event(n) for n in range(place, place + count)])
            place += count
            if chance.random() < 0.6:
                await log.sign()
            if chance.random() < 0.6 and log.last:
                await cosign(log, witness)
            assert world.verify().problems == []
        await log.close()
        if place:
            assert world.verify(*([str(witness.last[0])] if witness.last else [])).problems == []
