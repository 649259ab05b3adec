"""Keeps the values of headers out of logs: gRPC for Python writes one that is not UTF-8 whole, a token too."""

from __future__ import annotations

import logging

# Those that read or write headers; their children have names of their own.
_LOGGERS = ("grpc", "grpc._common", "grpc._cython.cygrpc", "grpc._plugin_wrapping", "grpc._server", "grpc._channel")
_LOGGERS_OF_AIO = ("grpc.aio", "grpc.aio._call", "grpc.aio._channel", "grpc.aio._server", "grpc._cython._cygrpc")


class _WithoutBytes(logging.Filter):
    """Lets every record pass, without bytes, and without the trace of an error that carries them."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        carried = record.exc_info[1] if record.exc_info else None
        if any(isinstance(value, bytes | bytearray) for value in arguments) or isinstance(carried, UnicodeError):
            record.args = tuple(
                f"({len(value)} bytes)" if isinstance(value, bytes | bytearray) else value for value in arguments
            )
            record.exc_info = record.exc_text = None
        return True


_FILTER = _WithoutBytes()


def hide_metadata() -> None:
    """Have no value of a header written by gRPC's Python loggers in this process; calling it again changes nothing."""
    for name in (*_LOGGERS, *_LOGGERS_OF_AIO):
        # A filter that is there already is not added again.
        logging.getLogger(name).addFilter(_FILTER)
