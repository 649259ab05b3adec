"""A process with a keyring of its own: reads one JSON command a line, writes one JSON answer a line.

Run as ``python keyring_process.py KEYSTORE MASTER_KEY``. Commands are ``[name, argument…]``; an answer is
``{"result": …}`` or ``{"error": "<class>"}``. Bytes are hexadecimal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.corpus.errors import GroundwireError
from services.security.key_stores import SqliteKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey
from services.security.sealed import Sealer


def main() -> None:
    """Answer until standard input ends."""
    ring = Keyring(FileMasterKey(Path(sys.argv[2])), SqliteKeyStore.open(Path(sys.argv[1])))
    sealer, keyed = Sealer(ring), KeyedTerms(ring)
    commands: dict[str, Callable[..., Any]] = {
        "ready": lambda: True,
        "seal": lambda tenant, document_id, text: sealer.seal(tenant, document_id, 1, "f", text.encode()).hex(),
        "open": lambda tenant, document_id, token: sealer.open(
            tenant, document_id, 1, "f", bytes.fromhex(token)
        ).decode(),
        "hash": keyed.hash,
        "rotate": ring.rotate_tenant,
        "rewrap": ring.rewrap_all,
        "shred": lambda tenant: ring.shred(tenant).keys_destroyed,
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"result": commands[name](*arguments)}
        except GroundwireError as error:
            answer = {"error": type(error).__name__}
        print(json.dumps(answer), flush=True)  # noqa: T201 - this is how it answers


if __name__ == "__main__":
    main()
