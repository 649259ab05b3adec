"""Who calls, and who may read: callers, principals and access lists.

A *principal* is a string: ``user:alice``, ``group:hr`` or ``tenant:*`` (everybody in the document's own tenant).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from services.corpus.errors import InvalidField

EVERYBODY = "tenant:*"
MAX_READERS = 256
_PRINCIPAL = re.compile(r"(?:user|group):[A-Za-z0-9][A-Za-z0-9._@+\-]{0,127}|tenant:\*")


def parse_principal(text: str, path: str = "principal") -> str:
    """Return ``text`` if it is a well-formed principal; raise InvalidField otherwise."""
    if not _PRINCIPAL.fullmatch(text):
        raise InvalidField(path, "must be 'user:NAME', 'group:NAME' or 'tenant:*'")
    return text


@dataclass(frozen=True)
class Caller:
    """The verified identity behind a call.

    ``tenant`` and ``subject`` come from verified credentials alone, never from a request's fields.
    """

    tenant: str
    subject: str
    groups: frozenset[str] = field(default_factory=frozenset)
    permissions: frozenset[str] = field(default_factory=frozenset)
    acting_service: str = ""
    """The service of the mesh that calls on the subject's behalf; empty when they call themselves."""

    @cached_property
    def principals(self) -> frozenset[str]:
        """Every principal string that this caller answers to within its tenant."""
        return frozenset({EVERYBODY, f"user:{self.subject}", *(f"group:{group}" for group in self.groups)})


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
