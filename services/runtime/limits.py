"""What one connection, and everybody's together, may cost a server: gRPC's channel arguments, each with its reason.

gRPC's own defaults let a connection that says nothing stay open for ever. The numbers that an operator may have to
change are settings (``[connections]``); docs/limits.md says what they hold off, and what is left to a proxy.
"""

from __future__ import annotations

import contextlib
import resource

from services.runtime import shared_port
from services.runtime.options import ConnectionOptions

MIB = 1024 * 1024
_KIB = 1024
_MAX_PENDING, _MAX_PENDING_HARD = 20_000, 40_000
_ENOUGH_FILES = 65_536
# A ping that the network delayed comes sooner before the next one: a client that keeps to the interval would collect a
# strike for each, and be sent away after some minutes.
_PUNCTUAL = 0.5


def server_options(
    max_request_bytes: int,
    *,
    connections: ConnectionOptions | None = None,
    shared_age: float | None = None,
) -> list[tuple[str, int]]:
    """GRPC's channel arguments of a server that takes messages of up to ``max_request_bytes``.

    ``connections`` are the settings (None: their defaults). ``shared_age`` is for one of several processes on one
    address: the seconds after which a connection begins anew.
    """
    limits = connections or ConnectionOptions()
    return [
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", limits.max_response_mib * MIB),
        ("grpc.max_metadata_size", limits.max_metadata_kib * _KIB),
        # Connections beyond this are closed as they come. Each is a file of the process, which needs some for itself.
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # Clients keep further calls waiting, but not reliably: one that ends and one that begins may cross, and gRPC's
        # client (1.85) reports the refused stream as UNAVAILABLE. So it is well above what an honest client has at once.
        ("grpc.max_concurrent_streams", limits.max_streams),
        # What a connection, and each of its calls, may send ahead of what is read. gRPC (1.85) begins with 4 MiB a call
        # and lets it grow: 400 calls of strangers had taken up to 240 MiB before they were refused. A fixed window is
        # as fast where the network is near; far away it bounds a call to its size per round trip.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", limits.window_kib * _KIB),
        # Calls that wait for the event loop: beyond the first number gRPC drops some at random, beyond the second
        # all, with CANCELLED, which no client tries again. Its own 1,000 and 3,000 are reached by an honest burst, and
        # by one client's rapid resets (CVE-2023-44487). 40,000 resets took about 90 MB.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_HARD),
        # From the connection to the client's first SETTINGS, TLS in between: whoever says nothing is cut here.
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake)),
        # From the end of the last call: whoever calls nothing is cut here.
        ("grpc.max_connection_idle_ms", _ms(limits.idle)),
        # A call that never ends keeps its connection from being idle: whoever only seems to call is cut here. gRPC
        # varies it by a tenth, so that connections of the same time do not end at the same time. Processes that share
        # a port have to spread their connections anew much sooner.
        *(shared_port.options(shared_age) if shared_age is not None else _alone(limits)),
        # Peers that have vanished, or been stopped, while they had a call: nothing but a ping finds them.
        ("grpc.keepalive_time_ms", _ms(limits.ping_interval)),
        ("grpc.keepalive_timeout_ms", _ms(limits.ping_timeout)),
        # Pings cost the server an answer each: a client that sends more is sent away with ENHANCE_YOUR_CALM. Without
        # this argument gRPC allows a connection that has no call one ping in two hours, whatever the interval; with it
        # the server's own pings go to such connections, too.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(limits.min_ping_interval * _PUNCTUAL)),
        ("grpc.http2.max_ping_strikes", limits.max_ping_strikes),
    ]


def _alone(limits: ConnectionOptions) -> list[tuple[str, int]]:
    return [
        *shared_port.options(None),
        ("grpc.max_connection_age_ms", _ms(limits.age)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.age_grace)),
    ]


def allow_many_files() -> int:
    """Raise this process's limit of open files as far as it may be raised; returns what it is then.

    The usual limit of 1,024 is less than a thousand silent connections and a server's own files take together.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Not every system allows what it promises.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
