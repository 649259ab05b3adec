"""The body of a chat completion's request, and how it is fitted to a server that refuses parameters of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.generation.completions.wellformed import well_formed

MAX_TOKENS = "max_tokens"
NEEDED = frozenset({"model", "messages"})
_MAX_TOKENS_NAMES = (MAX_TOKENS, "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Which parameters are sent beside the model and the messages.

    ``max_tokens`` is the name under which the most tokens of an answer are sent. What is ``omitted`` is not sent at
    all. ``extra`` is sent in addition, and in place of what would be sent under the same name.
    """

    max_tokens: str = MAX_TOKENS
    omitted: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, model: str, chat: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
        """The request's JSON."""
        optional: dict[str, Any] = {
            self.max_tokens: max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        sent = {name: value for name, value in optional.items() if name not in self.omitted}
        messages = [{key: well_formed(value) for key, value in message.items()} for message in chat]
        return {"model": well_formed(model), "messages": messages, **sent}

    def without(self, refused: str) -> Parameters | None:
        """What to send to a server that refuses the parameter ``refused``; None where that is for the operator.

        Each name is given up at most once. The limit of tokens is tried under the other name first.
        """
        if refused in NEEDED or refused in self.extra or refused in self.omitted:
            return None
        if refused == self.max_tokens and refused in _MAX_TOKENS_NAMES:
            other = next(name for name in _MAX_TOKENS_NAMES if name != refused)
            if other not in self.omitted:
                # Remembered as omitted, so that a server that refuses both is not asked for ever.
                return replace(self, max_tokens=other, omitted=self.omitted | {refused})
        return replace(self, omitted=self.omitted | {refused})

    def advice(self, refused: str) -> str:
        """What the operator can do about the refused parameter."""
        if refused in self.extra:
            return "remove it from extra_parameters"
        if refused in NEEDED:
            return "check that the url is one of chat completions"
        return self.settings(self.without(refused))

    @staticmethod
    def settings(fitted: Parameters | None) -> str:
        """The settings that send what ``fitted`` does."""
        if fitted is None:
            return "set omit_parameters"
        limited = fitted.max_tokens not in fitted.omitted
        found = [f'max_tokens_parameter = "{fitted.max_tokens}"'] if limited and fitted.max_tokens != MAX_TOKENS else []
        names = fitted.omitted.difference(_MAX_TOKENS_NAMES) | (frozenset() if limited else {MAX_TOKENS})
        if names:
            found.append(f"omit_parameters = {json.dumps(sorted(names))}")
        return f"set {' and '.join(found)}"
