"""Thinking that a model writes into its text, and how it is taken out while the text comes. Pure, linear.

Reasoning models write their thoughts before the answer, between marks that depend on the model (:mod:`services.generation.completions.thinking_marks`).
Servers that know the model separate them; others pass them on as text. What is between such marks is never returned;
the marks themselves, and the control tokens of chat templates, are not either. These rules decide:

* A mark counts wherever it stands, except in code: between backticks, or in a fenced block that is not the first thing
  written. Behind a backslash it is text as well. Marks with names that are common words in XML (``<analysis>``) count only
  before the answer has begun.
* Thoughts without an end run to the end of the text.
* An end without a beginning means that the chat template wrote the beginning: all text before it was thought. What
  was returned until then is void, and ``restarts`` counts that.
"""

from __future__ import annotations

import re

from services.generation.completions.thinking_marks import (
    ANYWHERE,
    BLANK,
    DETAILS_END,
    ENDS,
    HARMONY,
    HARMONY_TOKEN,
    IM_ROLE,
    IM_TOKEN,
    KINDS,
    LONGEST_CODE,
    LONGEST_END,
    LONGEST_HEADER,
    LONGEST_ROLE,
    LONGEST_RUN,
    LONGEST_TAG,
    MAY_MATTER,
    OPENINGS,
    TAG,
    TAG_BEGUN,
    THINKING_END,
    TOKENS_BEGIN,
    TOKENS_END,
    plain_name,
)


def _behind_blanks(text: str, place: int) -> int:
    blanks = BLANK.match(text, place)
    return blanks.end() if blanks else place


# --- the filter -----------------------------------------------------------------------------------------------------


class ThinkingFilter:
    """Returns a text without the thoughts in it; joined, what it returns does not depend on how the text was cut.

    With ``opened`` the text begins inside thoughts, because the chat template opens them. If they never end, all of
    it was thought (``certain``), or none (otherwise): then the text is returned at its end. ``restarts`` counts how
    often all that was returned before became void; ``thought`` tells whether there were thoughts or marks of them,
    ``began_inside`` whether the text turned out to begin inside them.
    """

    def __init__(self, *, opened: bool = False, certain: bool = True) -> None:
        self.restarts = 0
        self.thought = False
        self.began_inside = False
        self._inside = opened  # still in the thoughts that the text began in
        self._buffer = ""
        self._end: re.Pattern[str] | None = THINKING_END if opened else None  # of the thoughts that we are in
        self._kept: list[str] | None = [] if opened and not certain else None  # returned if they never end
        self._fresh = True  # no text was returned since the start
        self._first = True  # at the very start: openings are looked for
        self._code = 0  # backticks that end the code which the text is in; below 0: those of a fence
        self._fence_first = False  # the fence was the first thing written
        self._line_start = True
        self._last = ""
        self._wrapper = ""
        self._header = ""  # harmony: "role" or "channel" while its header is read
        self._channel = ""
        self._role = False  # behind ChatML's <|im_start|>

    def feed(self, piece: str) -> str:
        """Return what ``piece`` makes certain."""
        if self._kept is not None:
            self._kept.append(piece)
        return self._run(piece, last=False)

    def finish(self, *, certain: bool = False) -> str:
        """Return what is left at the end of the text; nothing where it is ``certain`` that it still was in thoughts."""
        if self._kept is not None and certain:
            self._kept, self.thought, self.began_inside = None, True, True
        if self._kept is not None:
            plain = ThinkingFilter()
            rest = plain.feed("".join(self._kept)) + plain.finish()
            self.thought, self.restarts, self._kept = plain.thought, plain.restarts, None
            return rest
        return self._run("", last=True)

    def _run(self, piece: str, *, last: bool) -> str:
        text, place = self._buffer + piece, 0
        out: list[str] = []
        while place < len(text):
            if self._header:
                after = self._read_header(text, place)
            elif self._role:
                after = self._read_role(text, place, last=last)
            elif self._end is not None:
                after = self._skip_thoughts(text, place)
            elif self._first:
                after = self._read_start(text, place, last=last)
            else:
                after = self._read(text, place, out, last=last)
            if after < 0:
                # What is held back begins at ~after.
                self._buffer = "" if last and (self._header or self._end is not None) else text[~after:]
                return "".join(out)
            place = after
        self._buffer = ""
        return "".join(out)

    def _show(self, out: list[str], text: str) -> None:
        if self._fresh:
            text = text[_behind_blanks(text, 0) :]
            self._fresh = not text
        if text:
            out.append(text)
            self._last = text[-1]
            self._line_start = text[-1] == "\n"

    def _think(self, end: re.Pattern[str]) -> None:
        self.thought = True
        self._end = end

    # Each of these reads at ``place`` and returns where to go on, or ~place where more text is needed for it.

    def _read_start(self, text: str, place: int, *, last: bool) -> int:
        place = _behind_blanks(text, place)
        if place == len(text):
            return place
        for opening in OPENINGS:
            begun = opening.begin.match(text, place)
            if begun:
                self._first = False
                if opening.end is not None:
                    self._think(opening.end)
                return begun.end()
        beginning = text[place : place + 40].casefold()
        if not last and any(
            # One more than the literal: what follows "analysis", or a blank before a line's end, decides as well.
            opening.literal.casefold().startswith(beginning.rstrip(" \t"))
            or beginning == opening.literal.casefold()
            or (opening.begun is not None and opening.begun.fullmatch(text, place))
            for opening in OPENINGS
        ):
            return ~place
        self._first = False
        return place

    def _skip_thoughts(self, text: str, place: int) -> int:
        assert self._end is not None  # noqa: S101 - for the type checker
        end = self._end.search(text, place)
        if end is None:
            return ~max(place, len(text) - LONGEST_END)
        self._end, self._kept, self._line_start = None, None, True
        if self._inside:
            self._inside, self.thought, self.began_inside = False, True, True
        # A control token that ends thoughts begins something else.
        return end.start() if end.re in (HARMONY_TOKEN, IM_TOKEN) else end.end()

    def _read_role(self, text: str, place: int, *, last: bool) -> int:
        if len(text) - place < LONGEST_ROLE and not last:
            return ~place
        self._role = False
        role = IM_ROLE.match(text, place)
        if role is None:
            return place
        if role["thoughts"]:
            self._think(IM_TOKEN)
        return role.end()

    def _read_header(self, text: str, place: int) -> int:
        token = HARMONY_TOKEN.search(text, place)
        if token is None:
            if len(text) - place > LONGEST_HEADER:
                self._header = ""
                self._think(HARMONY_TOKEN)
                return place
            return ~place
        if self._header == "channel":
            self._channel = (text[place : token.start()].split() or [""])[0].casefold()
        self._header = ""
        self._harmony(token[1])
        return token.end()

    def _harmony(self, name: str) -> None:
        if name in ("start", "channel", "constrain"):
            self._header = {"start": "role", "channel": "channel"}.get(name, "type")
            self._channel = "" if name == "start" else self._channel
        elif name == "message":
            if self._channel not in ("", "final"):
                self._think(HARMONY_TOKEN)
        else:
            self._channel = ""

    def _read(self, text: str, place: int, out: list[str], *, last: bool) -> int:
        found = MAY_MATTER.search(text, place)
        if found is None:
            self._show(out, text[place:])
            return len(text)
        at = found.start()
        self._show(out, text[place:at])
        if text[at] == "\n":
            self._code = min(self._code, 0)  # an inline code span ends with its line
            self._show(out, "\n")
            return at + 1
        if text[at] == "`":
            return self._read_backticks(text, at, out, last=last)
        return self._read_mark(text, at, out, last=last)

    def _read_backticks(self, text: str, at: int, out: list[str], *, last: bool) -> int:
        end = at
        while end < len(text) and text[end] == "`" and end - at < LONGEST_RUN:
            end += 1
        if end == len(text) and end - at < LONGEST_RUN and not last:
            return ~at
        size = end - at
        if self._code == 0:
            fence = size >= 3 and self._line_start
            self._fence_first = fence and self._fresh
            self._code = -size if fence else size
        elif size == self._code or (self._code < 0 and self._line_start and size >= -self._code):
            self._code = 0
        self._show(out, text[at:end])
        return end

    def _read_mark(self, text: str, at: int, out: list[str], *, last: bool) -> int:
        mark = TAG.match(text, at)
        # Only what follows "]" tells whether the brackets are those of a link.
        open_ended = mark is None or (mark["square"] and mark.end() == len(text))
        if open_ended and not last and len(text) - at <= LONGEST_TAG and TAG_BEGUN.fullmatch(text, at):
            return ~at
        if mark is not None:
            in_code = self._in_code(text, mark.end(), last=last)
            if in_code is None:
                return ~at
            if not in_code and self._last != "\\" and self._act(mark, out):
                return mark.end()
        self._show(out, text[at])
        return at + 1

    def _in_code(self, text: str, end: int, *, last: bool) -> bool | None:
        """Whether a mark that ends at ``end`` is in code; None where that is not certain yet."""
        if self._code < 0:
            return not self._fence_first
        if self._code == 0:
            return False
        for place in range(end, min(end + LONGEST_CODE, len(text))):
            if text[place] == "\n":
                return False
            if text[place] == "`":
                return True
        return False if last or len(text) - end >= LONGEST_CODE else None

    def _act(self, mark: re.Match[str], out: list[str]) -> bool:
        """Do what ``mark`` says; False where it is text after all."""
        if mark["tag"]:
            return self._act_on_tag(plain_name(mark["tag"]), mark, out)
        if mark["details"]:
            self._think(DETAILS_END)
        elif mark["token"]:
            self._act_on_token(mark["token"].casefold().replace("▁", "_"), out)
        elif mark["square_close"] or mark["kimi_close"] or mark["gemma_end"]:
            self._void(out)
        else:
            self._think(THINKING_END)
        return True

    def _act_on_tag(self, name: str, mark: re.Match[str], out: list[str]) -> bool:
        if name not in KINDS:
            return self._act_on_wrapper(name, closing=bool(mark["close"]))
        if mark["close"]:
            if name not in ANYWHERE:
                return False
            self._void(out)
        elif name not in ANYWHERE and not self._fresh:
            return False
        elif not mark["empty"]:
            self._think(ENDS[KINDS[name]])
        return True

    def _act_on_wrapper(self, name: str, *, closing: bool) -> bool:
        """Drop the tags around a whole answer, such as <answer>…</answer>."""
        if closing and name == self._wrapper:
            self._wrapper = ""
            return True
        if not closing and self._fresh:
            self._wrapper = name
            return True
        return False

    def _act_on_token(self, name: str, out: list[str]) -> None:
        if name in HARMONY:
            self._harmony(name)
            self.thought = self.thought or self._header == "channel"
        elif name == "im_start":
            self._role = True
        elif name in TOKENS_BEGIN:
            self._think(THINKING_END)
        elif name in TOKENS_END:
            self._void(out)

    def _void(self, out: list[str]) -> None:
        self.thought = self.began_inside = True
        out.clear()
        self.restarts += 1
        self._fresh, self._code, self._last, self._line_start = True, 0, "", True
