"""Master keys behind a command: one that prints the key, or one that wraps and unwraps by itself (a KMS client).

Commands run without a shell, with a time limit, in a process group of their own that is ended with them. What they
write to standard error is discarded: it might hold secrets.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256

from services.security.encryption import KeysDamaged, MasterKeyMissing, MasterKeyUnavailable
from services.security.master_keys import SecretMasterKey, encode_context, pack, unpack

_COMMAND = 2
_DIGEST_BYTES = 32
_LONGEST_ANSWER = 64 * 1024
_COMMAND_NAME = "the master key command"


def printed_master_key(argv: Sequence[str], *, timeout: float = 10.0) -> SecretMasterKey:
    """Run ``argv`` once and read the keys that it prints, see ``parse_keys``; MasterKeyUnavailable on any failure.

    ``timeout`` is in seconds.
    """
    return SecretMasterKey.from_text(_run(argv, b"", timeout).decode("ascii", "replace"))


class CommandMasterKey:
    """A master key that never leaves its holder: every wrap and unwrap is one run of a command.

    Implements the MasterKey port. The command reads one JSON object from standard input and writes one:

        {"operation": "describe"}                                         → {"key_id": "…"}
        {"operation": "wrap", "context": {…}, "data": "<base64>"}         → {"key_id": "…", "data": "<base64>"}
        {"operation": "unwrap", "context": {…}, "data": "<base64>", "key_id": "…"} → {"data": "<base64>"}

    An unwrap may answer {"error": "damaged"} or {"error": "unknown_key"}; every other failure is its exit status.
    ``data`` carries a digest of the context beside the key, so the context is bound even if the command ignores it.
    """

    def __init__(self, argv: Sequence[str], *, timeout: float = 10.0) -> None:
        self._argv = tuple(argv)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def key_id(self) -> str:
        """See the port."""
        return _key_id(self._ask({"operation": "describe"}))

    def wrap(self, data_key: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        bound = sha256(encode_context(context)).digest() + data_key
        request = {"operation": "wrap", "context": dict(context), "data": base64.b64encode(bound).decode()}
        answer = self._ask(request)
        return pack(_COMMAND, _key_id(answer), _data(answer))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See the port."""
        key_id, body = unpack(_COMMAND, wrapped)
        request = {"operation": "unwrap", "context": dict(context), "data": base64.b64encode(body).decode()}
        answer = self._ask({**request, "key_id": key_id})
        match answer.get("error"):
            case "unknown_key":
                raise MasterKeyMissing
            case "damaged":
                raise KeysDamaged
        bound = _data(answer)
        if not hmac.compare_digest(bound[:_DIGEST_BYTES], sha256(encode_context(context)).digest()):
            raise KeysDamaged
        return bound[_DIGEST_BYTES:]

    def _ask(self, request: Mapping[str, object]) -> dict[str, object]:
        try:
            answer = json.loads(_run(self._argv, json.dumps(request).encode(), self._timeout))
        except (ValueError, RecursionError):
            raise MasterKeyUnavailable(f"{_COMMAND_NAME} gave no proper answer") from None
        if not isinstance(answer, dict):
            raise MasterKeyUnavailable(f"{_COMMAND_NAME} gave no proper answer")
        return answer


def _key_id(answer: Mapping[str, object]) -> str:
    key_id = answer.get("key_id")
    if not isinstance(key_id, str) or not 0 < len(key_id.encode("utf-8", "replace")) <= 255:
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} named no key")
    return key_id


def _data(answer: Mapping[str, object]) -> bytes:
    try:
        return base64.b64decode(str(answer["data"]), validate=True)
    except (KeyError, ValueError, binascii.Error):
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} gave no data") from None


def _run(argv: Sequence[str], request: bytes, timeout: float) -> bytes:
    if not argv:
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} is empty")
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own setting, run without a shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} cannot be run") from None
    with process:
        try:
            answer, _ = process.communicate(request, timeout)
        except BaseException as error:
            # A child of the command may hold its pipes. The group is ours alone, and its leader not yet reaped.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise MasterKeyUnavailable(f"{_COMMAND_NAME} did not answer in time") from None
            raise
    if process.returncode != 0:
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} failed")
    if len(answer) > _LONGEST_ANSWER:
        raise MasterKeyUnavailable(f"{_COMMAND_NAME} gave no proper answer")
    return answer
