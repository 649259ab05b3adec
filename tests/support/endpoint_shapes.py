"""Every shape of answer that servers of language models are known to give, and what happens with it.

tests/unit/test_endpoint_shapes.py tries each, and the table in docs/endpoints.md is written from this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.generation.grounding import SENTINEL
from tests.support.completions import (
    ANSWER,
    COUNTED,
    DONE,
    STOP,
    THOUGHTS,
    Shape,
    Status,
    Wire,
    delta,
    deltas,
    event,
    openai_error,
    refusing,
    told,
    usage,
    whole,
)
from tests.support.endpoint_shapes_text import MARKERS, USAGE

# --- the shapes -----------------------------------------------------------------------------------------------------

_CUT = "The fee is 42 euros a month [1]. It is due on the fir"
_BROKE = "the connection to the endpoint ended in the middle of an answer"
_ERROR = "the endpoint reported an error in place of an answer"
_NO_TEXT = "the endpoint ended without any text"
_ONLY_THOUGHTS = "the model wrote thoughts and no answer; switch thinking off by extra_parameters"
_UNREADABLE = "the endpoint's answer could not be read"
_TOOL = "the model called a tool in place of answering; switch tools off at the endpoint"
_REFUSED = "the model refused to answer this question"
_NOT_CHAT = "the endpoint sent no chat completion; check its url"
_CUT_SHORT = "the model was stopped at max_tokens before it had written a whole sentence with its source"


def _failing(name: str, words: str, wire: Wire | Status, reason: str, **more: Any) -> Shape:
    return Shape(name, words, wire, answer=None, reason=reason, **more)


def _thinking(name: str, words: str, text: str, **more: Any) -> Shape:
    return Shape(name, words, told(text), **more)


_ENDS = (
    Shape("stop", '`finish_reason: "stop"`, then `[DONE]`', told(ANSWER)),
    Shape("no-done", '`finish_reason: "stop"`, without `[DONE]`', deltas(ANSWER) + STOP),
    Shape("stop-with-text", "`finish_reason` in the chunk of the last words", delta(ANSWER, "stop") + DONE),
    Shape("stop-upper", '`"STOP"`, `"eos_token"`, `"end_turn"` and other words for it', deltas(ANSWER) + delta(finish="STOP")),
    Shape("stop-object", '`finish_reason: {"type": "stop"}`', deltas(ANSWER) + delta(finish={"type": "stop"}) + DONE),
    Shape("stop-empty-between", '`finish_reason: ""` in every chunk, `"stop"` in the last', delta(ANSWER, "") + STOP + DONE),
    Shape("breaks-after-stop", "the connection breaks behind `finish_reason`", Status(200, deltas(ANSWER) + STOP, breaks=True)),
    Shape("done-whole", "`[DONE]` behind a whole sentence, without a `finish_reason`", deltas(ANSWER) + DONE,
          warnings=("ANSWER_END_UNCONFIRMED",)),
    _failing("done-half", "`[DONE]` in the middle of a sentence, without a `finish_reason`", deltas(_CUT) + DONE,
             "the endpoint ended in the middle of a sentence, without a finish_reason"),
    _failing("cut", "the stream ends without `finish_reason` and `[DONE]`", deltas(ANSWER), _BROKE),
    _failing("cut-empty", '`finish_reason: ""` in every chunk, and the stream breaks off', delta(_CUT, ""), _BROKE),
    _failing("cut-null", '`finish_reason: "null"`, and the stream breaks off', delta(_CUT, "null"), _BROKE),
    _failing("cut-bool", "`finish_reason: true`, and the stream breaks off", delta(_CUT, True), _BROKE),
    _failing("breaks", "the connection breaks in the middle", Status(200, deltas(_CUT), breaks=True),
             "the connection to the endpoint failed"),
    _failing("unknown", "a `finish_reason` that is not known", told(ANSWER, "paused"),
             "the endpoint ended with a finish_reason that is not known"),
    _failing("error-finish", '`finish_reason: "error"`, `"abort"` and the like', told(ANSWER, "error"),
             "the endpoint reports by its finish_reason that it failed"),
    Shape("more-behind", "more text behind a `finish_reason`, then a real one", delta("The fee is 42 euros", "stop")
          + delta(" a month [1].") + STOP + DONE),
    _failing("stop-each-cut", '`finish_reason: "stop"` in every chunk, and the stream breaks off',
             delta("The fee is 42", "stop") + delta(" euros [1], if", "stop"), _BROKE),
    Shape("length-then-stop", '`"length"`, and `"stop"` in a later chunk', deltas(_CUT) + delta(finish="length") + STOP + DONE,
          warnings=("ANSWER_CUT_OFF",)),
    Shape("filter-then-stop", '`"content_filter"`, and `"stop"` in a later chunk', deltas(_CUT) + delta(finish="content_filter")
          + STOP + DONE, warnings=("ANSWER_FILTERED",)),
    Shape("length-then-text", '`"length"`, more text behind it, and `"stop"`', delta(f"{ANSWER} It is", "length")
          + delta(" due on the fir") + STOP + DONE, warnings=("ANSWER_CUT_OFF",)),
    Shape("stop-then-length", '`"stop"`, and `"length"` in a later chunk', deltas(_CUT) + STOP + delta(finish="length") + DONE,
          warnings=("ANSWER_CUT_OFF",)),
    _failing("error-then-stop", '`"error"`, and `"stop"` in a later chunk', deltas(ANSWER) + delta(finish="error") + STOP + DONE,
             "the endpoint reports by its finish_reason that it failed"),
    Shape("unknown-each", 'a word that is not known in every chunk, then `"stop"`', delta("The fee is 42 euros", "running")
          + delta(" a month [1].", "running") + STOP + DONE),
    Shape("length", '`finish_reason: "length"`', told(_CUT, "length"), warnings=("ANSWER_CUT_OFF",)),
    Shape("length-list", '`"length"` in a list', told(f"- {ANSWER}\n- Notice is 90 days [1]\n- And if", "length"),
          answer=f"- {ANSWER}\n- Notice is 90 days [1]", warnings=("ANSWER_CUT_OFF",)),
    Shape("length-number", '`"length"` within a number', told(f"{ANSWER} In all it is 42.", "length"), warnings=("ANSWER_CUT_OFF",)),
    Shape("max-tokens", '`"max_tokens"`, `"model_length"` and other words for it', told(_CUT, "MAX_TOKENS"),
          warnings=("ANSWER_CUT_OFF",)),
    _failing("length-half", '`"length"` before a sentence ended', told("The fee [1] is", "length"), _CUT_SHORT, blamed=False),
    _failing("length-uncited", '`"length"` before anything was cited', told("There are fees. And the fee is", "length"),
             _CUT_SHORT, blamed=False),
    Shape("filter", '`finish_reason: "content_filter"`', told(_CUT, "content_filter"), warnings=("ANSWER_FILTERED",)),
    _failing("filter-all", '`"content_filter"` and no text', delta("", "content_filter") + DONE,
             "the endpoint's content filter took the answer away", blamed=False),
    Shape("endless", "text without end, whatever `max_tokens` says", (delta(f"{ANSWER} ") * 800), warnings=("ANSWER_CUT_OFF",),
          answer=" ".join([ANSWER] * 516)),
)  # fmt: skip

_NOTHING = (
    _failing("no-bytes", "an empty body", b"", _NOT_CHAT),
    _failing("html", "a page of HTML", Status(200, b"<html><body>Log in</body></html>", "text/html"), _NOT_CHAT),
    _failing("done-alone", "`[DONE]` alone", DONE, _NO_TEXT),
    _failing("no-choices", "`choices: []` throughout", usage({"prompt_tokens": 9, "completion_tokens": 0}) + DONE, _NO_TEXT),
    _failing("empty", 'no text, `finish_reason: "stop"`', delta("") + STOP + COUNTED + DONE, _NO_TEXT),
    _failing("blank", "nothing but white space", told(" \n\t \u00a0\n"), _NO_TEXT),
    _failing("marker-alone", "a marker and no words", told("[1]."), _NO_TEXT),
    _failing("empty-length", 'no text, `finish_reason: "length"`', delta("") + delta(finish="length") + DONE,
             "the model was stopped at max_tokens before it wrote anything", blamed=False),
    _failing("tool-calls", "`tool_calls`", delta(None, tool_calls=[{"index": 0, "function": {"name": "f"}}])
             + delta(finish="tool_calls") + DONE, _TOOL),
    _failing("tool-finish", '`finish_reason: "tool_calls"` behind text', told(ANSWER, "tool_calls"), _TOOL),
    _failing("function-call", "`function_call`", delta(None, function_call={"name": "f"}) + delta(finish="function_call"), _TOOL),
    Shape("tool-calls-empty", "`tool_calls: []` beside text", delta(ANSWER, tool_calls=[]) + STOP),
    _failing("refusal", "`refusal`", delta(None, refusal="I cannot help.") + STOP + DONE, _REFUSED, blamed=False),
    _failing("refusal-part", "a part of the type `refusal`", delta([{"type": "refusal", "refusal": "No."}]) + STOP, _REFUSED,
             blamed=False),
    _failing("error-object", '`{"error": {…}}` in the stream', deltas(_CUT) + event({"error": {"message": "boom"}}) + DONE, _ERROR),
    _failing("error-first", '`{"error": {…}}` in place of the stream', event({"error": {"message": "x", "code": 503}}),
             f"{_ERROR} (code 503)"),
    _failing("error-words", '`{"error": "…"}`', event({"error": "overloaded"}) + DONE, _ERROR),
    _failing("error-event", "`event: error`", deltas(_CUT) + b'event: error\ndata: {"message": "boom", "code": 500}\n\n',
             f"{_ERROR} (code 500)"),
    _failing("error-event-text", "`event: error` with data that is no JSON", b"event: error\ndata: boom\n\n", _ERROR),
    _failing("error-kind", '`{"object": "error", …}`', deltas(_CUT) + event({"object": "error", "message": "x", "code": 400}),
             f"{_ERROR} (code 400)"),
    _failing("error-type", '`{"type": "error", …}`', event({"type": "error", "error": {"type": "overloaded_error"}}),
             f"{_ERROR} (overloaded_error)"),
    _failing("error-choice", '`{"choices": [{"error": {…}}]}`', deltas(ANSWER)
             + event({"choices": [{"error": {"code": 502}, "delta": {}}]}) + STOP + DONE, f"{_ERROR} (code 502)"),
    _failing("error-delta", '`{"choices": [{"delta": {"error": {…}}}]}`', deltas(ANSWER)
             + event({"choices": [{"delta": {"error": {"code": 502}}}]}) + STOP + DONE, f"{_ERROR} (code 502)"),
    _failing("error-detail", '`{"detail": "…"}`', event({"detail": "Internal error"}) + DONE, _ERROR),
    _failing("error-message", '`{"message": "…"}` and no choices', event({"message": "model is loading"}), _ERROR),
    _failing("error-json", "an error as a body of JSON with status 200",
             Status(200, b'{"error": {"message": "x", "type": "server_error"}}'), f"{_ERROR} (server_error)"),
    _failing("error-secret", "an error with words that may be secret", event({"error": {"message": "sk-key", "type": "sk-key"}}), _ERROR),
    _failing("error-late", "an error behind the text and its `finish_reason`", deltas(ANSWER) + STOP + event({"error": "x"}), _ERROR),
    _failing("not-json", "data that is no JSON", deltas(_CUT) + event(b"{not json"), _UNREADABLE),
    _failing("list", "data that is no object", event(b"[1, 2]"), _UNREADABLE),
    _failing("plain-error", "`Internal Server Error` in the middle of the stream", deltas(_CUT) + b"Internal Server Error", _BROKE),
    _failing("many-objects", "an event of more than 5,000 objects", b"data: " + b"{}\ndata: " * 6_000 + b"\n\n", _UNREADABLE),
    _failing("huge", "an event above 256 KiB", b"data: " + b"x" * 300_000, _UNREADABLE),
)  # fmt: skip

_PARTS = [{"type": "text", "text": "The fee is 42 euros"}, {"type": "text", "text": " a month [1]."}]
_FORMS = (
    Shape("role-first", "a first chunk with the role and `content: null`", event({"choices": [{"delta": {"role": "assistant", "content": None}}]}) + told(ANSWER)),
    Shape("parts", "content as a list of parts", delta(_PARTS) + STOP),
    Shape("parts-thinking", "a part of the type `thinking` before them", delta([{"type": "thinking", "thinking": THOUGHTS}, *_PARTS]) + STOP),
    Shape("parts-strings", "parts that are strings, or hold `text.value`",
          delta(["The fee is 42 euros", {"type": "text", "text": {"value": " a month [1]."}}]) + STOP),
    Shape("parts-thought", 'a part with `"thought": true`', delta([{"type": "text", "text": THOUGHTS, "thought": True}, *_PARTS]) + STOP),
    Shape("delta-thought", '`"thought": true` in `delta`, or in its `extra_content.google`', delta(THOUGHTS, thought=True)
          + delta(THOUGHTS, extra_content={"google": {"thought": True}}) + told(ANSWER)),
    Shape("legacy", "`text`, as in the older completions",
          event({"choices": [{"text": ANSWER, "finish_reason": None}]}) + event({"choices": [{"text": "", "finish_reason": "stop"}]})),
    Shape("message", "`message` in place of `delta`", event({"choices": [{"message": {"content": "The fee is 42 euros"}}]})
          + event({"choices": [{"message": {"content": " a month [1]."}, "finish_reason": "stop"}]})),
    Shape("message-repeats", "a last chunk that repeats the whole `message`",
          deltas(ANSWER) + event({"choices": [{"delta": {}, "message": {"content": ANSWER}, "finish_reason": "stop"}]})),
    Shape("message-grows", "`message` with all of the text so far in each chunk",
          b"".join(event({"choices": [{"message": {"content": ANSWER[:end]}}]}) for end in (10, 20, 20, 32)) + STOP + DONE),
    Shape("message-grows-thinking", "the same, thoughts included", b"".join(
        event({"choices": [{"message": {"content": f"<think>{THOUGHTS}</think>\n\n{ANSWER}"[:end]}}]}) for end in (3, 20, 60, 99)) + STOP + DONE),
    Shape("message-repeats-thinking", "a last `message` that repeats the text with its thoughts", delta(None, reasoning_content=THOUGHTS)
          + deltas(ANSWER) + event({"choices": [{"message": {"content": f"<think>{THOUGHTS}</think>\n\n{ANSWER}"}, "finish_reason": "stop"}]})),
    Shape("message-ends-thinking", "a last `message` that goes on, with thoughts in front", event({"choices": [{"message": {"content": "The fee is"}}]})
          + event({"choices": [{"message": {"content": f"<think>{THOUGHTS}</think>{ANSWER}"}, "finish_reason": "stop"}]})),
    Shape("message-repeats-bare", "a last `message` that repeats the text without its thoughts", deltas(f"<think>{THOUGHTS * 9}</think>\n{ANSWER}")
          + event({"choices": [{"message": {"content": ANSWER}, "finish_reason": "stop"}]})),
    Shape("json", "a body of JSON in place of a stream", Status(200, whole({"content": ANSWER}))),
    Shape("json-parts", "a body of JSON with parts", Status(200, whole({"content": _PARTS}))),
    Shape("json-text", "a body of JSON with `text`", Status(200, b'\n {"choices": [{"text": "%s", "finish_reason": "stop"}]}' % ANSWER.encode())),
    Shape("json-length", "a body of JSON that was cut off", Status(200, whole({"content": _CUT}, "length")), warnings=("ANSWER_CUT_OFF",)),
    Shape("json-no-finish", "a body of JSON without a `finish_reason`", Status(200, whole({"content": ANSWER}, None)),
          warnings=("ANSWER_END_UNCONFIRMED",)),
    _failing("json-half", "a body of JSON that ends in the middle", Status(200, whole({"content": ANSWER})[:-20]), _UNREADABLE),
    _failing("json-empty", "a body of JSON with `choices: []`", Status(200, b'{"choices": []}'), _NO_TEXT),
    Shape("json-lines", "JSON, one object a line, without `data:`",
          Status(200, b"".join(line.removeprefix(b"data: ").strip() + b"\n" for line in (deltas(ANSWER) + STOP).split(b"\n\n")))),
    Shape("choices-null", "`choices: null`, `delta: null`",
          event({"choices": None}) + event({"choices": [{"delta": None}]}) + told(ANSWER)),
    Shape("filters-first", "a first chunk with `prompt_filter_results`", event({"choices": [], "prompt_filter_results": [{}]}) + told(ANSWER)),
    Shape("second-choice", "a second choice that was not asked for",
          event({"choices": [{"index": 1, "delta": {"content": "Other. "}}, {"index": 0, "delta": {"content": ANSWER}}]}) + STOP),
    Shape("index-string", '`index: "0"`', event({"choices": [{"index": "0", "delta": {"content": ANSWER}}]}) + STOP),
    Shape("finish-beside", "`finish_reason` beside `choices: []`", deltas(_CUT) + event({"choices": [], "finish_reason": "length"}) + DONE,
          warnings=("ANSWER_CUT_OFF",)),
    Shape("sentinel-escaped", "`NO\\_ANSWER\\_IN\\_SOURCES`, the words that say that the sources have no answer", told(SENTINEL.replace("_", "\\_")), answer=""),
    Shape("sentinel-blanks", "`NO ANSWER IN SOURCES`", told(f"**{SENTINEL.replace('_', ' ')}**."), answer=""),
    Shape("sentinel-small", "`no_answer_in_sources`", told(SENTINEL.lower()), answer=""),
    Shape("sentinel", "the words that say that the sources have no answer", told(SENTINEL), answer=""),
    Shape("uncited", "an answer that cites nothing", told("The fee is 42 euros a month."), answer=""),
)  # fmt: skip

_T, _A = THOUGHTS, ANSWER
_THINKING = (
    _thinking("think", "`<think>…</think>`", f"<think>{_T}</think>\n\n{_A}"),
    _thinking("thinking", "`<thinking>…</thinking>`", f"<thinking>{_T}</thinking>{_A}"),
    _thinking("thought", "`<thought>…</thought>`", f"<thought>{_T}</thought>{_A}"),
    _thinking("reasoning", "`<reasoning>…</reasoning>`", f"<reasoning>{_T}</reasoning>{_A}"),
    _thinking("reflection", "`<reflection>…</reflection>` in the middle", f"The fee is <reflection>{_T}</reflection>42 euros a month [1]."),
    _thinking("scratchpad", "`<scratchpad>…</scratchpad>`", f"<SCRATCHPAD>{_T}</SCRATCHPAD>{_A}"),
    _thinking("monologue", "`<inner_monologue>…`, `<chain_of_thought>…`", f"<inner_monologue>{_T}</inner_monologue>{_A}"),
    _thinking("analysis", "`<analysis>…</analysis>` before the answer", f"<analysis>{_T}</analysis>{_A}"),
    _thinking("seed", "`<seed:think>…</seed:think>`", f"<seed:think>{_T}</seed:think>{_A}"),
    _thinking("spelling", "attributes, capitals, white space", f'< Think effort="high">{_T}</ THINK >{_A}'),
    _thinking("escaped", "`&lt;think&gt;…&lt;/think&gt;`", f"&lt;think&gt;{_T}&lt;/think&gt;{_A}"),
    _thinking("mixed", "`<think>…</thinking>`", f"<think>{_T}</thinking>{_A}"),
    _thinking("nested", "thoughts in thoughts", f"<think>{_T}<think>{_T}</think>{_T}</think>{_A}"),
    _thinking("empty-thoughts", "`<think></think>`", f"<think>\n\n</think>\n\n{_A}"),
    _thinking("twice", "thoughts again, behind an answer has begun", f"<think>{_T}</think>The fee is 42 euros<think>{_T}</think> a month [1]."),
    _thinking("opened", "`…</think>` alone: the template opened it", f"{_T}</think>{_A}"),
    Shape("opened-setting", '`…</think>` alone, with `thinking = "opened"`', told(f"{_T}</think>{_A}"), endpoint={"opened": True}),
    _thinking("wrapped", "`<think>…</think><answer>…</answer>`", f"<think>{_T}</think><answer>{_A}</answer>"),
    _thinking("mistral", "`[THINK]…[/THINK]`", f"[THINK]{_T}[/THINK]{_A}"),
    _thinking("kimi", "`◁think▷…◁/think▷`", f"◁think▷{_T}◁/think▷{_A}"),
    _thinking("cohere", "`<|START_THINKING|>…<|END_THINKING|>`", f"<|START_THINKING|>{_T}<|END_THINKING|><|START_RESPONSE|>{_A}<|END_RESPONSE|>"),
    _thinking("deepseek-tokens", "`<｜begin▁of▁thinking｜>…`", f"<｜begin▁of▁thinking｜>{_T}<｜end▁of▁thinking｜>{_A}<｜end▁of▁sentence｜>"),
    _thinking("begin-of-thought", "`<|begin_of_thought|>…<|end_of_thought|>`",
              f"<|begin_of_thought|>{_T}<|end_of_thought|><|begin_of_solution|>{_A}<|end_of_solution|>"),
    _thinking("harmony", "harmony's channels",
              f"<|channel|>analysis<|message|>{_T}<|end|><|start|>assistant<|channel|>final<|message|>{_A}<|return|>"),
    _thinking("harmony-commentary", "harmony's `commentary`, without an end",
              f"<|start|>assistant<|channel|>commentary to=f <|constrain|>json<|message|>{_T}<|start|>assistant<|channel|>final<|message|>{_A}"),
    _thinking("harmony-bare", "harmony without its control tokens", f"analysisWe read. {_T}assistantfinal{_A}"),
    _thinking("gemma", "`<|channel>thought …<channel|>`, `<unused94>…<unused95>`", f"<|channel>thought\n{_T}<channel|>{_A}"),
    _thinking("harmony-tail", "harmony without its first token",
              f"analysis<|message|>{_T}<|end|><|start|>assistant<|channel|>final<|message|>{_A}<|return|>"),
    _thinking("harmony-tail-commentary", "the same with `commentary to=…`", f"Commentary to=f <|constrain|>json<|message|>{_T}<|end|>"
              f"<|start|>assistant<|channel|>final<|message|>{_A}"),
    _thinking("harmony-final", "harmony's last channel without its first token", f"final<|message|>{_A}<|return|>"),
    _thinking("harmony-role", "harmony's role without its token", f"assistant<|channel|>analysis<|message|>{_T}<|end|>"
              f"<|start|>assistant<|channel|>final<|message|>{_A}"),
    _thinking("harmony-bare-small", "`analysis` and a small letter, `commentary`", f"analysisthe user asks. {_T}assistantfinal{_A}"),
    _thinking("harmony-bare-commentary", "`commentary…assistantfinal`", f"commentary{_T}assistantfinal{_A}"),
    _thinking("harmony-bare-role", "`assistantanalysis…assistantcommentary…assistantfinal`",
              f"assistantanalysis{_T}assistantcommentary{_T}assistantfinal{_A}"),
    _thinking("reasoning-tokens", "`<|reasoning|>…<|/reasoning|>`", f"<|reasoning|>{_T}<|/reasoning|>{_A}"),
    _thinking("deep-think", "`<deep_think>…</deep_think>`", f"<deep_think>{_T}</deep_think>{_A}"),
    _thinking("thought-process", "`<thoughtprocess>`, `<thought-process>`", f"<thoughtprocess>{_T}</thought-process>{_A}"),
    _thinking("reasoning-scratchpad", "`<REASONING_SCRATCHPAD>…`", f"<REASONING_SCRATCHPAD>{_T}</REASONING_SCRATCHPAD>{_A}"),
    _thinking("chatml-think", "`<|im_start|>think…<|im_start|>answer…`", f"<|im_start|>think{_T}<|im_start|>answer{_A}<|im_end|>"),
    _thinking("chatml-think-lines", "the same on lines of their own",
              f"<|im_start|>think\n{_T}<|im_end|>\n<|im_start|>answer\n{_A}<|im_end|>"),
    _thinking("chatml-role", "`<|im_start|>assistant`", f"<|im_start|>assistant\n{_A}<|im_end|>"),
    _thinking("fenced-long", "a fenced block of four backticks", f"````thinking\n{_T}\n```\n{_T}\n````\n{_A}"),
    _thinking("fenced-words", "a fenced block `Thinking process`, lines that end with CR LF", f"``` Thinking process\r\n{_T}\r\n```\r\n{_A}"),
    _thinking("fenced-tildes", "a fenced block of tildes", f"~~~thinking\n{_T}\n~~~\n{_A}"),
    _thinking("analysis-word", "a text that begins with `analysis`", "analysis of the fees [1] ends.", answer="analysis of the fees [1] ends.",
              note="it is text"),
    _thinking("heading", "headings such as `**Thinking:**`", "**Thinking:** it is due [1].", answer="**Thinking:** it is due [1].",
              note="they may be content"),
    _thinking("granite", "`Here is my thought process: … Here is my response:`",
              f"Here is my thought process:\n{_T}\n\nHere is my response:\n\n{_A}"),
    _thinking("react", "`Thought: …` and `Final Answer:`", f"Thought: {_T}\nFinal Answer: {_A}"),
    _thinking("process", "`Thinking Process: …</think>`", f"Thinking Process:\n\n1. {_T}</think>\n\n{_A}"),
    _thinking("fenced", "a fenced block `thinking` at the start", f"```thinking\n{_T}\n```\n{_A}"),
    _thinking("details", '`<details type="reasoning">…</details>`', f'<details type="reasoning" done="true">{_T}</details>{_A}'),
    Shape("fields", "`reasoning_content`, `reasoning`", delta(None, reasoning_content=_T) + delta(None, reasoning=_T) + told(_A)),
    _thinking("template-tokens", "`<|im_end|>` and other control tokens", f"{_A}<|im_end|>"),
    _thinking("sentinel-behind", "thoughts, then the words that say that there is no answer",
              f"<think>77 euros [1]? No.</think>{SENTINEL}", answer=""),
    _thinking("in-code", "`<think>` in code", "Write `<think>` first, says [1]. It ends with `</think>` [1].",
              answer="Write `<think>` first, says [1]. It ends with `</think>` [1].", note="it is text"),
    _thinking("behind-backslash", "`\\<think>`", "Write \\<think> first [1].", answer="Write \\<think> first [1].", note="it is text"),
    _failing("unclosed", "`<think>` without an end", told(f"<think>{_T}"), _ONLY_THOUGHTS),
    _failing("thoughts-alone", "`<think>…</think>` and nothing else", told(f"<think>{_T}</think>\n"), _ONLY_THOUGHTS),
    _failing("fields-alone", "`reasoning_content` and nothing else", delta(None, reasoning_content=_T) + STOP + DONE, _ONLY_THOUGHTS),
    _failing("thoughts-cut", "thoughts that are cut off by `length`", told(f"<think>{_T}", "length"),
             "the model was stopped at max_tokens before its thoughts ended", blamed=False),
    _thinking("unclosed-behind", "`<think>` without an end, behind the answer", f"{_A}<think>{_T}"),
)  # fmt: skip


def _words_error(name: str) -> Any:
    return {"error": {"message": f"Unrecognized request argument supplied: {name}", "type": "invalid_request_error"}}


def _pydantic_error(name: str) -> Any:
    return {
        "detail": [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
        ]
    }


def _text_error(name: str) -> bytes:
    return f"TypeError: create() got an unexpected keyword argument '{name}'".encode()


def _openai_rename(name: str) -> Any:
    words = f"Unsupported parameter: '{name}' is not supported with this model. Use 'max_completion_tokens' instead."
    return {"error": {"message": words, "param": None}}


def _echoed(name: str) -> Any:
    del name
    words = "This model's maximum context length is 4096 tokens: 'temperature of the berth' is not supported. Reduce max_tokens."
    return {"error": {"message": words, "code": "context_length_exceeded"}}


_KEPT = "asked again without it, and from then on"
_PARAMETERS = (
    Shape("max-tokens-refused", "`max_tokens` is refused", refusing("max_tokens", form=_openai_rename),
          note="asked again with `max_completion_tokens`, and from then on"),
    Shape("both-limits-refused", "`max_tokens` and `max_completion_tokens` are refused",
          refusing("max_tokens", "max_completion_tokens", form=openai_error), note=_KEPT),
    Shape("temperature-refused", "`temperature` is refused", refusing("temperature", form=openai_error), note=_KEPT),
    Shape("stream-options-refused", "`stream_options` is refused, status 422",
          refusing("stream_options", form=_pydantic_error, status=422), note=_KEPT),
    Shape("stream-refused", "`stream` is refused", refusing("stream_options", "stream", form=_words_error), note=_KEPT),
    Shape("many-refused", "one parameter after the other is refused",
          refusing("temperature", "stream_options", "max_tokens", form=_words_error), note=_KEPT),
    Shape("refused-by-crash", "a server that fails (500) over a parameter",
          refusing("stream_options", form=_text_error, status=500), note=_KEPT),
    Shape("renamed", '`max_tokens_parameter = "max_completion_tokens"`', refusing("max_tokens", form=openai_error),
          endpoint={"max_tokens": "max_completion_tokens"}),
    Shape("omitted", '`omit_parameters = ["temperature"]`', refusing("temperature", form=openai_error),
          endpoint={"omitted": ("temperature",)}),
    _failing("extra-refused", "a parameter of `extra_parameters` is refused", refusing("top_k", form=openai_error),
             "the endpoint refuses (HTTP status 400) the parameter top_k: remove it from extra_parameters",
             endpoint={"extra": {"top_k": 3}}, blamed=False),
    _failing("value-refused", "the value of a parameter is refused", refusing("max_tokens", form=lambda _: {
        "error": {"message": "max_tokens is too large: 1000. At most 512 is supported.", "param": "max_tokens"}}),
             "the endpoint refuses the request with HTTP status 400; check its address, model and context length", blamed=False),
    _failing("context-refused", "the context is too long, and the error repeats the question", refusing("messages", form=_echoed),
             "the endpoint refuses the request with HTTP status 400; check its address, model and context length", blamed=False),
    _failing("credentials", "status 401 or 403", Status(401, b"{}"), "the endpoint refuses the configured credentials", blamed=False),
    _failing("not-found", "status 404, a redirect, other 4xx", Status(404, b"{}"),
             "the endpoint refuses the request with HTTP status 404; check its address, model and context length", blamed=False),
    _failing("rate-limit", "status 429 without `Retry-After`", Status(429, b"{}"), "the endpoint's rate limit was reached", blamed=False),
    _failing("server-error", "status 5xx, 408", Status(503, b"loading"), "the endpoint failed with HTTP status 503"),
)  # fmt: skip

_CHARACTERS = (
    Shape("surrogate-split", "half an emoji in each of two chunks", event(b'{"choices":[{"delta":{"content":"A \\ud83d"}}]}')
          + event(b'{"choices":[{"delta":{"content":"\\ude00 fee [1]."}}]}') + STOP, answer="A \U0001f600 fee [1]."),
    Shape("surrogate-alone", "half an emoji alone", event(b'{"choices":[{"delta":{"content":"A \\ud83d fee [1]."}}]}') + STOP,
          answer="A \ufffd fee [1]."),
    Shape("surrogate-low", "the second half alone", event(b'{"choices":[{"delta":{"content":"A \\ude00 fee [1]."}}]}') + STOP,
          answer="A \ufffd fee [1]."),
    Shape("surrogate-last", "half an emoji at the very end", event(b'{"choices":[{"delta":{"content":"A fee [1]. \\ud83d"}}]}') + STOP,
          answer="A fee [1]. \ufffd"),
    Shape("surrogates-swapped", "the halves in the wrong order", event(b'{"choices":[{"delta":{"content":"A \\ude00\\ud83d fee [1]."}}]}') + STOP,
          answer="A \ufffd\ufffd fee [1]."),
    Shape("not-utf8", "bytes that are not UTF-8", event(b'{"choices":[{"delta":{"content":"A \xff fee [1]."}}]}') + STOP,
          answer="A \ufffd fee [1]."),
    Shape("bom-in-text", "a byte order mark before the text", told(f"\ufeff{ANSWER}")),
    Shape("bom-behind-thoughts", "a byte order mark behind thoughts", told(f"\ufeff<think>{THOUGHTS}</think>\n\ufeff{ANSWER}")),
    Shape("line-separator", "U+2028 in a text", told("A fee\u2028is due [1]."), answer="A fee\u2028is due [1]."),
)  # fmt: skip

_EVENTS = (
    Shape("crlf", "lines that end with CR LF", told(ANSWER).replace(b"\n", b"\r\n")),
    Shape("cr", "lines that end with CR", told(ANSWER).replace(b"\n", b"\r")),
    Shape("no-blank", "`data:` without a blank behind it", told(ANSWER).replace(b"data: ", b"data:")),
    Shape("data-empty", "`data:` without data", b"data:\n\ndata: \n\ndata\n\n" + told(ANSWER)),
    Shape("data-null", "`data: null`", event(None) + told(ANSWER)),
    Shape("data-lines", "one object over several `data` lines",
          b'data: {"choices": [{"delta":\ndata: {"content": "%s"}}]}\n\n' % ANSWER.encode() + STOP),
    Shape("bom", "a byte order mark at the beginning", b"\xef\xbb\xbf" + told(ANSWER)),
    Shape("comments", "comments between the events", b": ping\n\n" + told(ANSWER).replace(b"\n\n", b"\n\n:\n: keep-alive\n\n")),
    Shape("fields", "`event: message`, `id`, `retry`, unknown fields", told(ANSWER).replace(b"data: ", b"event: message\nid: 3\nretry: 9\nx: y\ndata: ")),
    Shape("ping", "`event: ping` with `{}` or nothing", b"event: ping\ndata: {}\n\nevent: ping\ndata:\n\n" + told(ANSWER)),
    Shape("one-line-feed", "events without blank lines between them", told(ANSWER).replace(b"\n\n", b"\n")),
    Shape("no-blank-line", "a last event without a blank line", (deltas(ANSWER) + STOP).rstrip(b"\n") + b"\n"),
    Shape("no-line-end", "a last event without the end of its line", (deltas(ANSWER) + STOP).rstrip(b"\n")),
    Shape("done-no-blank-line", "`[DONE]` without a blank line", (deltas(ANSWER) + STOP + DONE).rstrip(b"\n")),
    Shape("done-spelling", "`[done]` between blanks", deltas(ANSWER) + STOP + b"data:  [done] \n\n"),
    Shape("behind-done", "anything behind `[DONE]`", told(ANSWER) + event({"error": "late"}), note="not read"),
    _failing("half-event", "a stream that breaks off within an event", (deltas(ANSWER) + STOP)[:-30], _UNREADABLE),
)  # fmt: skip

GROUPS: Mapping[str, tuple[Shape, ...]] = {
    "How it ends": _ENDS,
    "No answer, and errors": _NOTHING,
    "Where it has the text": _FORMS,
    "Thinking": _THINKING,
    "Parameters and statuses": _PARAMETERS,
    "Characters": _CHARACTERS,
    "Events": _EVENTS,
    "Citation markers": MARKERS,
    "Usage": USAGE,
}
"""Every shape; names are unique within their group."""
