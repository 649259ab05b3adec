"""What is different between two pictures of the mesh, one change at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli.status_view import Picture, health_of
from cli.text import one_line
from services.corpus.cleaning import cleaned

STATE, BREAKER, SERVING = "state", "breaker", "serving"
_BACKUP = "backup"
_NOUNS = {"store": "vector store ", "llm": "LLM endpoint "}


@dataclass(frozen=True)
class Change:
    """One property of one thing that is not what it was.

    ``kind`` is "service", "endpoint", "store" or "llm"; ``address`` is an endpoint's. ``before`` is None for what was
    not known, ``after`` for what is not there any more. ``detail`` says why a state is not a healthy one.
    """

    kind: str
    name: str
    address: str
    what: str
    before: str | bool | None
    after: str | bool | None
    detail: str = ""

    def as_document(self, now: datetime) -> dict[str, Any]:
        """The change as one JSON object."""
        return {
            "time": now.isoformat(timespec="milliseconds"),
            "kind": self.kind,
            "name": self.name,
            "address": self.address,
            "what": self.what,
            "before": self.before,
            "after": self.after,
            "detail": self.detail,
        }

    def line(self, now: datetime) -> str:
        """The change as a line for people."""
        who = f"{_NOUNS.get(self.kind, '')}{self.name}{f' at {self.address}' if self.address else ''}"
        why = f": {self.detail}" if self.detail else ""
        return f"{now.isoformat(timespec='seconds')} {who} {self._words()}{why}"

    def _words(self) -> str:
        if self.after is None:
            return "is gone"
        if self.what == SERVING:
            return "serves" if self.after else "does not serve now"
        was = f", was {self.before}" if self.before not in (None, self.after) else ""
        return f"{'has a breaker that is' if self.what == BREAKER else 'is'} {self.after}{was}"


@dataclass(frozen=True)
class _Thing:
    """``primary`` says whether it is expected to serve."""

    properties: Mapping[str, str | bool]
    detail: str
    primary: bool = True

    def goes_without_saying(self, what: str, value: str | bool) -> bool:
        """Whether nobody needs to be told this of something that is seen for the first time."""
        return (what == BREAKER and value == "closed") or (what == SERVING and value is self.primary)


def changes(before: Picture | None, after: Picture) -> Iterator[Change]:
    """What is different in ``after``; without ``before``, how everything is."""
    old = dict(_things(before)) if before is not None else {}
    new = dict(_things(after))
    for key, thing in new.items():
        was = old.get(key, _Thing({}, ""))
        for what, value in thing.properties.items():
            known = was.properties.get(what)
            if known is None and thing.goes_without_saying(what, value):
                continue
            detail = thing.detail if what == STATE else ""
            if value != known or (what == STATE and detail != was.detail):
                yield Change(*key, what, known, value, detail)
    for key in old.keys() - new.keys():
        yield Change(*key, STATE, old[key].properties.get(STATE), None)


def _things(picture: Picture) -> Iterator[tuple[tuple[str, str, str], _Thing]]:
    for service in picture.services:
        yield ("service", service.service, ""), _Thing({STATE: service.state}, service.detail)
        for endpoint in service.endpoints:
            properties: dict[str, str | bool] = {BREAKER: endpoint.breaker or "closed"}
            if len(service.endpoints) > 1:
                # The state of an only endpoint is the service's.
                properties[STATE] = endpoint.state
            if endpoint.serving is not None:
                properties[SERVING] = endpoint.serving
            yield (
                ("endpoint", service.service, endpoint.address),
                _Thing(properties, endpoint.detail, primary=endpoint.role != _BACKUP),
            )
    for store in picture.stores or ():
        of_store: dict[str, str | bool] = {STATE: health_of(store), BREAKER: store.breaker or "closed"}
        yield ("store", cleaned(store.name), ""), _Thing(of_store, one_line(store.error_message))
    for llm in picture.llms or ():
        of_llm: dict[str, str | bool] = {STATE: health_of(llm), BREAKER: llm.breaker or "closed", SERVING: llm.serving}
        yield ("llm", cleaned(llm.name), ""), _Thing(of_llm, one_line(llm.error_message), primary=llm.role != _BACKUP)
