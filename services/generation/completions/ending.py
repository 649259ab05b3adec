"""How a completion ends: what a ``finish_reason`` means, and where its last whole sentence ends. Pure."""

from __future__ import annotations

import re
from enum import Enum

from services.generation.sentences import sentence_ends


class Finish(Enum):
    """Why a model stopped writing, whatever its server calls that."""

    COMPLETE = "complete"
    LENGTH = "length"
    FILTERED = "filtered"
    TOOL = "tool"
    FAILED = "failed"
    UNKNOWN = "unknown"


# The first of each row is OpenAI's; the others are those of Mistral, Cohere, Anthropic, Gemini, TGI, vLLM, SGLang,
# DeepSeek, Zhipu and Bedrock behind gateways that pass them on.
_REASONS = {
    Finish.COMPLETE: "stop eos eos_token end_turn stop_sequence complete completed end_of_text",
    Finish.LENGTH: "length max_tokens max_length model_length max_output_tokens model_context_window_exceeded",
    Finish.FILTERED: "content_filter content_filtered safety recitation blocklist prohibited_content spii sensitive "
    "refusal guardrail_intervened",
    Finish.TOOL: "tool_calls function_call tool_call tool_use malformed_function_call",
    Finish.FAILED: "error abort aborted cancelled canceled timeout network_error insufficient_system_resource",
}
_KNOWN = {word: finish for finish, words in _REASONS.items() for word in words.split()}
_NONE = frozenset({"", "null", "none", "undefined"})  # what some servers write in every chunk in place of null


def read_finish(value: object) -> Finish | None:
    """What a ``finish_reason`` means; None where it is not there, or says nothing."""
    if isinstance(value, dict):  # SGLang: {"type": "stop", "matched": 2}
        value = value.get("type")
    if not isinstance(value, str):
        return None
    word = value.strip().casefold()
    return None if word in _NONE else _KNOWN.get(word, Finish.UNKNOWN)


_WORSE = (Finish.LENGTH, Finish.FILTERED, Finish.UNKNOWN, Finish.TOOL, Finish.FAILED)  # from bad to worst


def later_finish(before: Finish | None, later: Finish | None) -> Finish | None:
    """What two reasons, one behind the other, mean together.

    The worse one counts, because a gateway may close a completion that was cut off with a "stop" of its own. A word
    that is not known gives way to one that is: some servers write one in every chunk.
    """
    if before is None or later is None:
        return later or before
    if before in (Finish.COMPLETE, Finish.UNKNOWN):
        return later
    return before if later is Finish.COMPLETE else max(before, later, key=_WORSE.index)


# --- whole sentences ------------------------------------------------------------------------------------------------

_MARKERS = re.compile(r"(?:[ \t]?\[\d{1,2}\])*", re.ASCII)
_LINE_END = re.compile(r"(?<=[^\s:,;])[ \t]*\n")
_MARKER_LAST = re.compile(r"\[\d{1,2}\][\"'”’)*_`]*\s*\Z", re.ASCII)
_NUMBER_LAST = re.compile(r"\d\.\s*\Z", re.ASCII)


def ends_whole(text: str) -> bool:
    """Whether ``text`` ends with a sentence, or with the markers that stand behind one."""
    text = text.rstrip()
    return bool(text) and (whole_sentences(text) == text or _MARKER_LAST.search(text) is not None)


def whole_sentences(text: str) -> str:
    """The part of a text that was cut off somewhere up to the end of its last whole sentence, list item or line."""
    ends = [_MARKERS.match(text, end) for end in sentence_ends(text.rstrip() + "\n\n")]
    places = [match.end() for match in ends if match]
    # "42." at the end may be the beginning of "42.50".
    if places and places[-1] >= len(text.rstrip()) and _NUMBER_LAST.search(text):
        places.pop()
    places += [match.start() for match in _LINE_END.finditer(text) if not _is_heading(text, match.start())]
    return text[: max(places, default=0)].rstrip()


def _is_heading(text: str, end: int) -> bool:
    return text[text.rfind("\n", 0, end) + 1 : end].lstrip().startswith("#")
