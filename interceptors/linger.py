"""Lets a caller that streams its requests finish sending before its call fails: web servers call it a lingering close.

A server may answer while a request is still being sent (RFC 9113, 8.1), and gRPC's clients report that answer, but for
one: Python's asyncio client (grpcio 1.85, https://github.com/grpc/grpc/issues/36066) reports INTERNAL, "Internal error
from Core", for good, when one of its writes fails because the call has ended. So the answer waits until the caller has
said that it is done, or sends nothing for a moment. A caller that goes on and on is answered in the middle all the same.
"""

from __future__ import annotations

import asyncio

import grpc

from interceptors._shapes import Call, MalformedRequestError

# In seconds. A caller that waits for the answer before it sends on gets it that much later.
_QUIET = 0.1
_LONGEST = 1.0
# Each call holds one message at a time; those beyond this number are answered at once.
_MOST_CALLS = 32


class Linger:
    """Reads what the callers of failed calls still send, and drops it."""

    def __init__(self) -> None:
        self._calls = 0

    async def until_sent(self, call: Call) -> None:
        """Return when the caller of ``call`` has sent everything, or what it sends is not waited for any longer.

        Nothing is read of a caller that may not use the method.
        """
        if not call.allowed or self._calls >= _MOST_CALLS:
            return
        self._calls += 1
        loop = asyncio.get_running_loop()
        end = loop.time() + _LONGEST
        try:
            async with asyncio.timeout_at(min(loop.time() + _QUIET, end)) as wait:
                while await call.context.read() is not grpc.aio.EOF:
                    wait.reschedule(min(loop.time() + _QUIET, end))
        except (TimeoutError, MalformedRequestError):
            pass
        finally:
            self._calls -= 1
