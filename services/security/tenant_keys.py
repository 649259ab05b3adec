"""A tenant's keys, unwrapped, in memory."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.security.encryption import frame

KEY_BYTES = 32


class TenantKeys:
    """The keys of one tenant as they were when asked for; ask :class:`Keyring` again for each use, do not keep them.

    (Python cannot overwrite ``bytes``: dropped keys leave a process's memory when it is used for something else.)
    """

    def __init__(self, tenant: str, data_keys: Mapping[int, bytes], root_keys: Mapping[int, bytes]) -> None:
        """Both maps go from a key's number to its 32 bytes."""
        self.tenant = tenant
        self.numbers = frozenset(data_keys)
        """The numbers of the data keys that open."""
        self.newest = max(data_keys)
        """The number of the data key that seals."""
        self.roots = tuple(sorted(root_keys))
        """The numbers of the root keys: the first is in use, a second one awaits a re-index."""
        newest_first = sorted(data_keys, reverse=True)
        self.fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(data_keys[number])) for number in newest_first])
        self._root_keys = dict(root_keys)
        self._derived: dict[tuple[str, int], bytes] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} data keys {sorted(self.numbers)}, root keys {list(self.roots)}>"

    def __reduce__(self) -> str:
        raise TypeError("key material is not pickled")

    def derive(self, label: str, *, root: int | None = None) -> bytes:
        """32 bytes for one use, which ``label`` names; KeyError if there is no root key of the number ``root``.

        HKDF-SHA256 (RFC 5869): labels give unrelated keys, and none tells anything of the root key. Labels are
        constants of the program: each result is kept.
        """
        number = self.roots[0] if root is None else root
        derived = self._derived.get((label, number))
        if derived is None:
            info = frame("groundwire/derived-key/v1", self.tenant, label)
            derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(self._root_keys[number])
            self._derived[label, number] = derived
        return derived
