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
        "thinking_process internal_thoughts ponder brainstorm brainstorming deep_think deep_thinking deep_thought "
        "deep_reasoning think_step thinking_step thought_step reasoning_step reasoning_process reasoning_scratchpad "
        "thinking_scratchpad reasoning_content thinking_content internal_reasoning internal_thinking inner_thinking my_thoughts"
    ),
    "reflection reflect",
    "scratch_pad",
    "inner_monologue inner_thoughts internal_monologue monologue",
    "chain_of_thought cot cot_budget_reflect",
)
# Names that documents use as well: thoughts only where nothing was answered yet.
_AT_START = "analysis rationale reason plan planning internal deliberation hidden critique"
_WRAPPERS = "answer final_answer final output response solution conclusion"
_TOKEN_NAMES = ["think", "thinking", "thought", "thoughts", "reason", "reasoning", "reflection", "scratchpad"]
TOKENS_BEGIN = frozenset(
    [
        "inner_prefix",
        *(form.format(name) for name in _TOKEN_NAMES for form in ("{}", "{}_start", "{}_begin")),
        *(
            form.format(name)
            for name in _TOKEN_NAMES
            for form in ("start_{}", "begin_{}", "start_of_{}", "begin_of_{}")
        ),
    ]
)
TOKENS_END = frozenset(
    [
        "inner_suffix",
        *(form.format(name) for name in _TOKEN_NAMES for form in ("/{}", "{}_end", "end_{}", "end_of_{}")),
    ]
)
HARMONY = frozenset(["start", "channel", "constrain", "message", "end", "return", "call"])


def _names(words: str) -> str:
    """A pattern of names, in which "_" stands for "_", "-" or nothing."""
    return "|".join(re.escape(word).replace("_", "[_-]?") for word in sorted(words.split(), key=len, reverse=True))


def plain_name(name: str) -> str:
    """A name as the tables below have it."""
    return name.casefold().replace("_", "").replace("-", "")


_ROWS = {plain_name(row.split()[0]): row for row in _THOUGHTS} | {name: name for name in _AT_START.split()}
KINDS = {plain_name(name): kind for kind, row in _ROWS.items() for name in row.split()}
ANYWHERE = frozenset(KINDS).difference(_AT_START.split())
_ALL_NAMES = _names(" ".join([*_ROWS.values(), _WRAPPERS]))
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
    rf"|{_LT}\s{{0,4}}/?\s{{0,4}}(?:[\w:-]{{0,40}}|(?:\w{{1,16}}:)?(?:{_ALL_NAMES})(?:\s[^<>\n]{{0,160}}|/|&g?t?)?)"
    rf"|<details\s[^<>\n]{{0,180}}|<{_BAR}\s?[\w▁/]{{0,32}}\s?{_BAR}?|<channel\|?"
    rf"|\[\s?/?[a-z]{{0,10}}\s?\]?|◁\s?/?\s?[a-z]{{0,10}}\s?)",
    _FLAGS,
)
BLANK = re.compile(r"[\s\ufeff]*")  # a byte order mark is none of the text
MAY_MATTER = re.compile("[<＜&\\[◁`\n]")


def _end_of(kind: str) -> re.Pattern[str]:
    names = _names(_ROWS[kind])
    tag = rf"{_LT}\s{{0,4}}/\s{{0,4}}(?:\w{{1,16}}:)?(?:{names})\s{{0,4}}{_GT}"
    if kind != "thinking":
        return re.compile(tag, _FLAGS)
    tokens = "|".join(sorted(map(re.escape, TOKENS_END), key=len, reverse=True)).replace("_", "[_▁]")
    others = rf"<{_BAR}\s?(?:{tokens})\s?{_BAR}>|\[\s?/(?:{_SQUARE_NAMES})\s?\]|◁\s?/\s?(?:{_SQUARE_NAMES})\s?▷"
    return re.compile(rf"{tag}|{others}|<channel\|>|<unused95>", _FLAGS)


ENDS = {kind: _end_of(kind) for kind in _ROWS}
THINKING_END = ENDS["thinking"]
DETAILS_END = re.compile(r"</details\s{0,4}>", re.IGNORECASE)
# Where ChatML's roles begin. Some models think in the role "think", and answer in the role "answer".
IM_TOKEN = re.compile(rf"<{_BAR}im_(?:start|end){_BAR}>", re.IGNORECASE)
IM_ROLE = re.compile(
    r"\s?(?:(?P<thoughts>thinking|think|thoughts|thought|reasoning|analysis)|answer|final|assistant|response)?[ \t]?\n?",
    re.IGNORECASE,
)
LONGEST_ROLE = 16
HARMONY_TOKEN = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")


class Opening(NamedTuple):
    """Words that begin thoughts when they are the first of a text, without any mark."""

    literal: str
    begin: re.Pattern[str]
    end: re.Pattern[str] | None  # None: what was read is dropped, and thoughts do not begin
    begun: re.Pattern[str] | None = None  # what may still become such a beginning, where it is not one word


_ANSWER_BEGINS = re.compile(
    rf"(?:{THINKING_END.pattern})|\n\s{{0,4}}\*{{0,2}}(?:Final )?Answer\s?(?::\*{{0,2}}|\*\*\s?:)", _FLAGS
)
_FENCED = r"(?:thinking|think|thoughts?|reasoning|scratchpad)(?:[ _-]?process)?"
_HEADER = r"(?:assistant)?(?:analysis|commentary)(?:[ \t][^<\n]{0,80})?(?:<\|constrain\|>[^<\n]{0,16})?"
OPENINGS = (
    # gpt-oss behind a server that drops control tokens: "analysisWe need …assistantfinalThe fee …"
    *(
        Opening(
            f"{role}{channel}",
            re.compile(rf"{role}{channel}(?=[^\W\d_]|[\"'“‘\n])"),
            re.compile(r"assistant\s{0,4}(?:commentary\s{0,4})?final"),
        )
        for role in ("", "assistant")
        for channel in ("analysis", "commentary")
    ),
    Opening("assistantfinal", re.compile(r"assistantfinal"), None),
    # The same behind a server that drops the first token alone, because it is part of the prompt
    Opening(
        "analysis<|message|>",
        re.compile(rf"{_HEADER}<\|message\|>", re.IGNORECASE),
        HARMONY_TOKEN,
        re.compile(rf"{_HEADER}<?(?:\|[a-z]{{0,9}}\|?)?", re.IGNORECASE),
    ),
    Opening("final<|message|>", re.compile(r"final<\|message\|>"), None),
    Opening("assistant<|channel|>", re.compile(r"assistant(?=<\|channel\|>)"), None),
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
        Opening(
            fence,
            re.compile(rf"{fence}[ \t]?(?:{_FENCED})[ \t]?\r?\n", re.IGNORECASE),
            re.compile(rf"\n{fence}"),
            re.compile(r"[`~]{1,5}[ \t]?[a-z _-]{0,24}[ \t]?\r?", re.IGNORECASE),
        )
        for fence in ("```", "````", "`````", "~~~", "~~~~")
    ),
)
