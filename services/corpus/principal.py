"""Who calls, and who may read: callers, principals and access lists.

A *principal* is a string: ``user:alice``, ``group:hr`` or ``tenant:*`` (everybody in the document's own tenant).

Names are what the issuer of tokens says, so they may hold anything: ``auth0|5f7c``, ``/hr``, ``Human Resources``. In a
principal every byte of a name's UTF-8 that is no letter or digit of ASCII and none of ``. _ @ + -`` is written as ``%``
and two hexadecimal digits in capitals (RFC 3986 §2.1), and so is a first character that is no letter or digit:
``group:%2Fhr``, ``group:Human%20Resources``. ``%`` itself is always written so. Each name therefore has exactly one
principal and each principal one name, and no other spelling counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from services.corpus.errors import InvalidField

EVERYBODY = "tenant:*"
MAX_READERS = 256
MAX_NAME_BYTES = {"user": 128, "group": 256}
"""The longest name of each kind, in bytes of UTF-8 before anything is quoted."""
MAX_PRINCIPAL = len("group:") + 3 * MAX_NAME_BYTES["group"]
"""Characters of the longest principal."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+\-]*")
_QUOTED_NAME = re.compile(r"(?:[A-Za-z0-9._@+\-]|%[0-9A-F]{2})+")
_ESCAPE = re.compile(rb"%([0-9A-F]{2})")
# How each byte is written after the first.
_SPELLING = [chr(byte) if re.match(r"[A-Za-z0-9._@+\-]", chr(byte)) else f"%{byte:02X}" for byte in range(256)]
_UNPRINTABLE = frozenset({"Cc", "Cs"})


def principal(kind: str, name: str) -> str:
    """The principal of the user or group (``kind``) of that name; InvalidField if there is none of that name.

    A name has 1 to 128 bytes in UTF-8 (groups: 256) and no control characters. It is not itself a principal: a name
    such as ``user:root`` was made to be taken for one.
    """
    if problem := name_problem(kind, name):
        raise InvalidField(kind, problem)
    return f"{kind}:{_quoted(name)}"


def name_problem(kind: str, name: str) -> str:
    """Why there is no user or group (``kind``) of that name, as the end of a sentence; empty if there can be one."""
    if is_name(kind, name):
        return ""
    if is_principal(name):
        return "must be a bare name, without user: or group: before it"
    return f"must be a name of 1 to {MAX_NAME_BYTES[kind]} bytes without control characters"


def is_name(kind: str, name: str) -> bool:
    """Whether there can be a user or group (``kind``) of that name."""
    if _PLAIN_NAME.fullmatch(name):
        return len(name) <= MAX_NAME_BYTES[kind]
    # Characters are at most as many as bytes: what is far too long is not looked at.
    if not 0 < len(name) <= MAX_NAME_BYTES[kind] or any(map(_is_unprintable, name)):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES[kind] and not is_principal(name)


def is_principal(text: str) -> bool:
    """Whether ``text`` is a principal, spelled in the one way that counts."""
    if text == EVERYBODY:
        return True
    kind, colon, quoted = text.partition(":")
    if not colon or kind not in MAX_NAME_BYTES or len(text) > MAX_PRINCIPAL:
        return False
    if _PLAIN_NAME.fullmatch(quoted):
        return len(quoted) <= MAX_NAME_BYTES[kind]
    if not _QUOTED_NAME.fullmatch(quoted):
        return False
    try:
        name = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), quoted.encode()).decode()
    except UnicodeError:
        return False
    return is_name(kind, name) and _quoted(name) == quoted


def parse_principal(text: str, path: str = "principal") -> str:
    """Return ``text`` if it is a well-formed principal; raise InvalidField otherwise.

    The error says how a name has to be spelled where that is what is wrong.
    """
    if is_principal(text):
        return text
    why = "must be 'user:NAME', 'group:NAME' or 'tenant:*'"
    kind, _, name = text.partition(":")
    if kind in MAX_NAME_BYTES and is_name(kind, name):
        why += (
            f"; in NAME other characters than letters, digits and ._@+- are written as %XX: '{principal(kind, name)}'"
        )
    raise InvalidField(path, why)


def _quoted(name: str) -> str:
    if not name:
        return ""
    first, *rest = name.encode("utf-8", "surrogatepass")
    begins = chr(first) if chr(first).isascii() and chr(first).isalnum() else f"%{first:02X}"
    return begins + "".join(_SPELLING[byte] for byte in rest)


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE


@dataclass(frozen=True)
class Caller:
    """The verified identity behind a call.

    ``tenant`` and ``subject`` come from verified credentials alone, never from a request's fields. ``subject`` and
    ``groups`` are names as the issuer spells them (see :func:`is_name`).
    """

    tenant: str
    subject: str
    groups: frozenset[str] = field(default_factory=frozenset)
    permissions: frozenset[str] = field(default_factory=frozenset)
    acting_service: str = ""
    """The service of the mesh that calls on the subject's behalf; empty when they call themselves."""

    @cached_property
    def user(self) -> str:
        """The caller's own principal, such as ``user:alice``."""
        return f"user:{_quoted(self.subject)}"

    @cached_property
    def principals(self) -> frozenset[str]:
        """Every principal string that this caller answers to within its tenant."""
        return frozenset({EVERYBODY, self.user, *(f"group:{_quoted(group)}" for group in self.groups)})


@dataclass(frozen=True)
class Access:
    """Who may read a document: a set of principals of the document's tenant. An empty set admits nobody."""

    readers: frozenset[str]

    @classmethod
    def of(cls, readers: Iterable[str], path: str = "access.readers") -> Access:
        """Build from principal strings; raise InvalidField on a malformed one or on too many."""
        listed = list(readers)
        if len(listed) > MAX_READERS:
            raise InvalidField(path, f"at most {MAX_READERS} readers")
        return cls(frozenset(parse_principal(text, f"{path}[{i}]") for i, text in enumerate(listed)))

    def admits(self, principals: frozenset[str]) -> bool:
        """Whether someone who answers to ``principals`` may read."""
        return not self.readers.isdisjoint(principals)
