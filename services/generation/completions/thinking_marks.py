"""The marks between which models write their thoughts, as patterns. Pure.

The table is what model cards and chat templates show: DeepSeek, Qwen, GLM, MiniMax and many others (``<think>``), Claude's
scratchpads, Mistral (``[THINK]``), Kimi (``◁think▷``), ByteDance (``<seed:think>``), Cohere (``<|START_THINKING|>``), gpt-oss
(harmony's channels), Gemma, Granite, and front ends that fold thoughts into ``<details type="reasoning">``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_TAG = 260
LONGEST_END = 96  # of a mark that ends thoughts
LONGEST_HEADER = 256  # between harmony's <|channel|> and <|message|>
LONGEST_RUN = 32  # of backticks
LONGEST_CODE = 120  # between a mark in an inline code span and the span's end

_LT, _GT, _BAR = r"(?:<|&lt;|＜)", r"(?:>|&gt;|＞)", r"[|｜]"
# Each row is one kind of thoughts: any of its names ends what any other began.
_THOUGHTS = (
    (
        "thinking thinks think thoughts thought antthinking reasoning reason_step think_fast think_faster thought_process "
        "thinking_process internal_thoughts ponder brainstorm brainstorming"
    ),
    "reflection reflect",
    "scratchpad scratch_pad",
    "inner_monologue inner_thoughts innermonologue internal_monologue monologue",
    "chain_of_thought cot cot_budget_reflect",
)
# Names that documents use as well: thoughts only where nothing was answered yet.
_AT_START = "analysis rationale reason plan planning internal deliberation hidden critique"
_WRAPPERS = "answer final_answer final output response solution conclusion"
TOKENS_BEGIN = frozenset(
    [
        "think",
        "thinking",
        "start_thinking",
        "begin_thinking",
        "begin_of_thought",
        "begin_of_thinking",
        "begin_of_reasoning",
        "inner_prefix",
        "start_of_thought",
        "start_of_thinking",
        "thought",
        "thought_start",
        "think_start",
        "thinking_start",
    ]
)
TOKENS_END = frozenset(
    [
        "/think",
        "/thinking",
        "end_thinking",
        "end_of_thought",
        "end_of_thinking",
        "end_of_reasoning",
        "inner_suffix",
        "/thought",
        "thought_end",
        "think_end",
        "thinking_end",
    ]
)
HARMONY = frozenset(["start", "channel", "constrain", "message", "end", "return", "call"])


def _names(words: str) -> str:
    return "|".join(sorted((re.escape(word) for word in words.split()), key=len, reverse=True))


ANYWHERE = {name: row.split()[0] for row in _THOUGHTS for name in row.split()}
KINDS = ANYWHERE | {name: name for name in _AT_START.split()}
_ALL_NAMES = _names(" ".join([*KINDS, *_WRAPPERS.split()]))
_SQUARE_NAMES = _names("thinking think thoughts thought reasoning reflection scratchpad")
_FLAGS = re.IGNORECASE | re.ASCII

TAG = re.compile(
    rf"{_LT}\s{{0,4}}(?P<close>/?)\s{{0,4}}(?:\w{{1,16}}:)?(?P<tag>{_ALL_NAMES})(?:\s[^<>\n]{{0,160}}?)?(?P<empty>/?){_GT}"
    rf"|(?P<details><details\s[^<>\n]{{0,80}}\btype\s?=\s?[\"']?reasoning\b[^<>\n]{{0,80}}>)"
    rf"|<{_BAR}\s?(?P<token>/?[\w▁/]{{1,32}})\s?{_BAR}>"
    rf"|(?P<gemma><\|channel>|<unused94>)|(?P<gemma_end><channel\|>|<unused95>)"
    rf"|\[\s?(?P<square_close>/?)(?P<square>{_SQUARE_NAMES})\s?\](?!\()"
    rf"|◁\s?(?P<kimi_close>/?)\s?(?:{_SQUARE_NAMES})\s?▷",
    _FLAGS,
)
# What may still become one of these; a little more than that is held back for a moment, never for good.
TAG_BEGUN = re.compile(
    rf"(?:&(?:l(?:t;?)?)?"
    rf"|{_LT}\s{{0,4}}/?\s{{0,4}}(?:[\w:]{{0,40}}|(?:\w{{1,16}}:)?(?:{_ALL_NAMES})(?:\s[^<>\n]{{0,160}}|/|&g?t?)?)"
    rf"|<details\s[^<>\n]{{0,180}}|<{_BAR}\s?[\w▁/]{{0,32}}\s?{_BAR}?|<channel\|?"
    rf"|\[\s?/?[a-z]{{0,10}}\s?\]?|◁\s?/?\s?[a-z]{{0,10}}\s?)",
    _FLAGS,
)
BLANK = re.compile(r"[\s\ufeff]*")  # a byte order mark is none of the text
MAY_MATTER = re.compile("[<＜&\\[◁`\n]")


def _end_of(kind: str) -> re.Pattern[str]:
    names = _names(" ".join(name for name, other in KINDS.items() if other == kind))
    tag = rf"{_LT}\s{{0,4}}/\s{{0,4}}(?:\w{{1,16}}:)?(?:{names})\s{{0,4}}{_GT}"
    if kind != "thinking":
        return re.compile(tag, _FLAGS)
    tokens = "|".join(sorted(map(re.escape, TOKENS_END), key=len, reverse=True)).replace("_", "[_▁]")
    others = rf"<{_BAR}\s?(?:{tokens})\s?{_BAR}>|\[\s?/(?:{_SQUARE_NAMES})\s?\]|◁\s?/\s?(?:{_SQUARE_NAMES})\s?▷"
    return re.compile(rf"{tag}|{others}|<channel\|>|<unused95>", _FLAGS)


ENDS = {kind: _end_of(kind) for kind in set(KINDS.values())}
THINKING_END = ENDS["thinking"]
DETAILS_END = re.compile(r"</details\s{0,4}>", re.IGNORECASE)
HARMONY_TOKEN = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")


class Opening(NamedTuple):
    """Words that begin thoughts when they are the first of a text, without any mark."""

    literal: str
    begin: re.Pattern[str]
    end: re.Pattern[str]


_ANSWER_BEGINS = re.compile(
    rf"(?:{THINKING_END.pattern})|\n\s{{0,4}}\*{{0,2}}(?:Final )?Answer\s?(?::\*{{0,2}}|\*\*\s?:)", _FLAGS
)
_FENCE_END = re.compile(r"\n```")
OPENINGS = (
    # gpt-oss behind a server that drops control tokens: "analysisWe need …assistantfinalThe fee …"
    Opening(
        "analysis",
        re.compile(r"analysis(?=[A-Z\"'“\n])"),
        re.compile(r"assistant\s{0,4}(?:commentary\s{0,4})?final"),
    ),
    *(
        # Granite
        Opening(
            f"{here} my thought process:",
            re.compile(f"{here} my thought process:", re.IGNORECASE),
            re.compile(r"Here(?:'s|’s| is) my response:", re.IGNORECASE),
        )
        for here in ("Here is", "Here's", "Here’s")
    ),
    *(
        # ReAct's habit, and Qwen's without its opening tag
        Opening(f"{words}:", re.compile(rf"{words}:", re.IGNORECASE), _ANSWER_BEGINS)
        for words in ("Thought", "Thinking", "Thinking process")
    ),
    *(
        Opening(f"```{name}\n", re.compile(rf"```{name}[ \t]?\n", re.IGNORECASE), _FENCE_END)
        for name in ("thinking", "think", "thought", "thoughts", "reasoning", "scratchpad")
    ),
)
