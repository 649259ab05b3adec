"""Properties of reading completions: the same answer wherever a stream is cut, and nothing shown that must not be."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import Unavailable
from services.generation.completions.completion import Completion, Ended
from services.generation.completions.sse import SseDecoder
from services.generation.completions.thinking import ThinkingFilter
from services.generation.completions.wellformed import SurrogateJoiner, well_formed
from services.generation.grounding import SENTINEL
from tests.support.completions import DONE, PASSAGES, STOP, delta, usage

_WORDS = [
    *("The fee", " is", " 42", " euros", ". ", "\n", "\n\n", " ", "[1]", " [2]", "[9]", "[1-2]", "［1］", "【1†source】", "[Source 1]", "(1)"),
    *("<think>", "</think>", "<thinking>", "</thinking>", "<reflection>", "</reflection>", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷"),
    *("<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|start|>", "assistant", "`", "```", "\\", "<", ">", "[", "]", "[["),
    *("&lt;think&gt;", "&lt;", "<answer>", "</answer>", "Here is my thought process:", "Here is my response:", SENTINEL, "NO_ANSWER", "Thought:", "\nFinal Answer:"),
    *("é", "\U0001f600", "\u2028", "arr[9]", "[2024]", "<sup>", "</sup>", '<source number="1">', "x" * 130, "<analysis>", "</analysis>"),
    *("<|im_start|>", "<|im_end|>", "think", "answer", "~~~thinking\n", "\n~~~", "````think\n", "\n````", "<deep-think>", "</deep_think>", "commentary"),
    *("\ufeff", SENTINEL.replace("_", " "), SENTINEL.replace("_", "\\_"), "NO ANSWER", "<|reasoning|>", "<|/reasoning|>", "assistantfinal", "A"),
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(_WORDS), max_size=24).map("".join)
PLACES = st.lists(st.integers(0, 5000), max_size=8)
ENDS = st.sampled_from(
    [STOP + DONE, STOP, DONE, b"", delta(finish="length") + DONE, usage({"prompt_tokens": 3}) + STOP + DONE]
)


def cut(text: Any, places: list[int]) -> list[Any]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def read(pieces: list[bytes], opened: bool | None = False) -> tuple[str, Ended | str]:
    """What was returned while reading, and the end, or the words of the failure."""
    decoder = SseDecoder()
    completion = Completion(PASSAGES, 1000, prompt=400, opened=opened)
    shown = ""
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                if not completion.done:
                    shown += completion.feed(event)
        for event in decoder.finish():
            if not completion.done:
                shown += completion.feed(event)
        return shown, completion.finish()
    except Unavailable as error:
        return shown, error.message


@settings(deadline=None, max_examples=300)
@given(TEXTS, ENDS, PLACES, PLACES, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.sampled_from([False, True, None]))
def test_any_cut_of_a_stream_gives_the_same_answer(
    text: str, end: bytes, in_text: list[int], in_bytes: list[int], line: bytes, opened: bool | None
) -> None:
    _, expected = read([delta(text) + end], opened)
    wire = b"".join(delta(piece) for piece in cut(text, in_text)) + end
    shown, ended = read(cut(b": ping\n\n".replace(b"\n", line) + wire.replace(b"\n", line), in_bytes), opened)
    if isinstance(ended, str) or isinstance(expected, str):
        assert ended == expected
        return
    assert ended.text == expected.text
    assert (ended.disclaimed, ended.notices, ended.read) == (expected.disclaimed, expected.notices, expected.read)
    assert ended.rest is None or shown + ended.rest == ended.text
    assert SENTINEL not in ended.text
    if "`" not in text and "\\" not in text:
        assert not re.search(r"</?think(ing)?>", ended.text)


@settings(deadline=None, max_examples=300)
@given(TEXTS, PLACES, st.sampled_from([{}, {"opened": True}, {"opened": True, "certain": False}]))
def test_thoughts_are_found_wherever_the_text_is_cut(text: str, places: list[int], how: dict[str, bool]) -> None:
    def filtered(pieces: list[str]) -> tuple[str, bool]:
        thinking, shown, restarts = ThinkingFilter(**how), "", 0
        for piece in [*pieces, None]:
            more = thinking.finish() if piece is None else thinking.feed(piece)
            shown = more if thinking.restarts != restarts else shown + more
            restarts = thinking.restarts
        return shown, thinking.thought

    assert filtered(cut(text, places)) == filtered([text])


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters() | st.sampled_from("\ud83d\ude00\udfff\ud800"), max_size=40), PLACES)
def test_surrogates_are_joined_wherever_the_text_is_cut(text: str, places: list[int]) -> None:
    joiner = SurrogateJoiner()
    joined = "".join(joiner.feed(piece) for piece in cut(text, places)) + joiner.finish()
    assert joined == well_formed(text)
    joined.encode()
