"""One completion, read as it comes: what of it may be shown, how it ended, and what it cost. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.corpus.coverage import Notice
from services.corpus.errors import Unavailable
from services.generation.completions.answer import AnswerFilter
from services.generation.completions.chunks import Chunk, Unreadable, read_chunk, read_objects
from services.generation.completions.ending import Finish, ends_whole, later_finish, whole_sentences
from services.generation.completions.sse import Event
from services.generation.completions.thinking import ThinkingFilter
from services.generation.completions.wellformed import SurrogateJoiner
from services.generation.ports import NoAnswer, Passage

CUT_OFF = Notice("ANSWER_CUT_OFF", "the model was stopped at max_tokens: the answer ends with its last whole sentence")
FILTERED = Notice(
    "ANSWER_FILTERED", "the endpoint's content filter stopped the model: the answer ends with its last whole sentence"
)
UNCONFIRMED = Notice("ANSWER_END_UNCONFIRMED", "the endpoint did not say whether the answer is complete")

_NO_NOTICES: tuple[Notice, ...] = ()
DONE = "[DONE]"
_BYTES_PER_TOKEN = 4  # of English text, where a server does not count
_MOST_ADDED = 1_000  # tokens that a server's template, or its gateway, adds to what is sent, or to what it writes
_MOST_EVENTS = 50_000  # beside those of the answer: thoughts, and signs of life
_EVENTS_PER_TOKEN = 4
_LONGEST_TOKEN = 16  # characters that a token has at most, on average over an answer
_MOST_CHARACTERS = 4_000_000  # of all that a server may write, thoughts included
_STEP = 4_096  # characters that are read at one go
_LONGEST_COMPARED = 65_536  # characters of a message that has other thoughts
_MOST_COMPARED = 16_000_000  # characters, of all comparisons of messages with the answer so far
_WORDS = re.compile(r"[^\W_]")
_MARKERS = re.compile(r"\[\d{1,2}\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a completion ended.

    ``text`` is the answer, "" where the model abstains; ``disclaimed`` tells that the model also said that there is
    none. ``rest`` is what of it was not returned yet, None where what was returned is not how it begins. ``read`` and
    ``written`` are tokens, estimated where the server does not count.
    """

    text: str
    disclaimed: bool
    rest: str | None
    notices: tuple[Notice, ...]
    read: int
    written: int


class Completion:
    """Reads the events of one completion.

    ``prompt`` is the size of what the model was given, in UTF-8 bytes. ``opened`` tells whether the text begins inside
    thoughts: True, False, or None where that was so before and may be so again.

    Raises, from :meth:`feed` and :meth:`finish`:
        Unavailable: The endpoint failed: it reported an error, broke off, called a tool, or wrote nothing.
        NoAnswer: There is no answer for a reason that lies in the question.
    """

    def __init__(
        self, passages: Sequence[Passage], max_tokens: int, *, prompt: int = 0, opened: bool | None = False
    ) -> None:
        self.done = False
        self._texts = [f"{passage.title}\n{passage.text}" for passage in passages]
        self._joiner = SurrogateJoiner()
        self._thinking = ThinkingFilter(opened=opened is not False, certain=opened is True)
        self._restarts = 0
        self._answer = AnswerFilter(len(passages), self._texts)
        self._plain: list[str] = []  # the text without thoughts
        self._kept: list[str] = []  # what of it is the answer
        self._shown = False  # some of it was returned
        self._void = False  # what was returned is not how the answer begins
        self._left = max_tokens * _LONGEST_TOKEN + 1000
        self._max_tokens = max_tokens
        self._events_left = _MOST_EVENTS + max_tokens * _EVENTS_PER_TOKEN
        self._most = _MOST_CHARACTERS
        self._prompt = prompt
        self._raw: list[str] = []
        self._bytes = 0
        self._read: int | None = None
        self._written: int | None = None
        self._finish: Finish | None = None
        self._contradicted = False  # there was more text behind a finish_reason
        self._events = 0
        self._compared = 0
        self._thought = False
        self._called_tool = False
        self._refused = False

    @property
    def began_inside(self) -> bool:
        """Whether the text turned out to begin inside thoughts; certain at the end."""
        return self._thinking.began_inside

    @property
    def complete(self) -> bool:
        """Whether the server said that this is the end, so that nothing is lost if the connection breaks now."""
        return self.done or (self._finish is not None and not self._contradicted)

    def feed(self, event: Event) -> str:
        """Return what ``event`` makes safe to show; ``done`` is set by the event that ends the stream."""
        return "".join(self.steps(event))

    def steps(self, event: Event) -> Iterator[str]:
        """The same in steps, each of one object, and of a few thousand characters: none of them takes long."""
        self._events_left -= 1
        if self._events_left < 0:
            raise Unavailable("the endpoint writes without an end")
        if event.data.strip().upper() == DONE and event.name.casefold() != "error":
            self.done = True
            return
        number = 0
        try:
            for number, found in enumerate(read_objects(event.data), 1):  # noqa: B007 - how many there were
                yield from self._take(read_chunk(found, event.name))
        except Unreadable as error:
            if event.name.casefold() == "error":
                raise _reported("") from error
            raise Unavailable("the endpoint's answer could not be read") from error
        if not number and event.name.casefold() == "error":
            raise _reported("")
        # It came whole, so that it is complete like a stream with [DONE] at its end.
        self.done = self.done or (event.whole and number == 1)

    def finish(self) -> Ended:
        """Read the end of the stream, which broke off unless the server said that it is complete."""
        rest = self._show(self._thinking.feed(self._joiner.finish())) + self._show(
            # A model that begins with its thoughts, and was cut off before they ended, wrote nothing else.
            self._thinking.finish(certain=self._finish is Finish.LENGTH)
        )
        last = self._answer.finish()
        self._kept.append(last)
        self._check_failures()
        text, plain = "".join(self._kept), "".join(self._plain)
        whole, notices = text, _NO_NOTICES
        if not self._answer.declined:
            if not _WORDS.search(_MARKERS.sub("", text or plain)):
                raise self._no_text()
            whole, notices = self._whole(text, plain)
        shown_in_part = self._void or whole != text
        return Ended(
            text=whole,
            disclaimed=self._answer.disclaimed,
            rest=None if shown_in_part else rest + last,
            notices=notices,
            # A token has a byte at least, of what was sent or what came; or it was a thought that was not sent.
            read=min(self._read or _estimate(self._prompt), self._prompt + _MOST_ADDED),
            written=min(self._written or _estimate(self._bytes), max(self._bytes, self._max_tokens) + _MOST_ADDED),
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    def _take(self, chunk: Chunk) -> Iterator[str]:
        if chunk.error is not None:
            raise _reported(chunk.error)
        self._events += 1
        self._called_tool = self._called_tool or chunk.called_tool
        self._refused = self._refused or chunk.refused
        self._read = chunk.read or self._read
        self._written = chunk.written or self._written
        self._bytes += chunk.thought
        self._thought = self._thought or chunk.thought > 0
        text = self._news(chunk.text) if chunk.whole else chunk.text
        if text.strip() and self._finish is not None:
            self._contradicted = True
            if self._finish in (Finish.COMPLETE, Finish.UNKNOWN):
                self._finish = None
        self._finish = later_finish(self._finish, chunk.finish)
        if not text:
            yield ""  # a sign of life
            return
        self._raw.append(text)
        self._most -= len(text)
        if self._most < 0:
            raise Unavailable("the endpoint writes without an end")
        text = self._joiner.feed(text)
        self._bytes += len(text.encode())
        for start in range(0, len(text), _STEP):
            yield self._show(self._thinking.feed(text[start : start + _STEP]))
            if self.done:
                return

    def _news(self, text: str) -> str:
        """What of a message was not written yet: some servers repeat all of the text so far, in each chunk or the last."""
        so_far = _MOST_CHARACTERS - self._most
        if not so_far or not text.strip():
            return text
        # Not compared with what is much longer, or a stream of messages would take time quadratic in its length.
        if so_far <= 2 * len(text):
            raw = "".join(self._raw)
            if text.startswith(raw):
                return text[so_far:]
            bare, begun = text.lstrip(), raw.strip()
            if begun and bare.startswith(begun):
                return bare[len(begun) :].lstrip()
        return self._news_without_thoughts(text)

    def _news_without_thoughts(self, text: str) -> str:
        """The same for a message that has other thoughts before the answer than what was written, or none."""
        if self._compared > _MOST_COMPARED or len(text) > _LONGEST_COMPARED:
            return text
        self._compared += _MOST_CHARACTERS - self._most
        ahead, whole = copy.copy(self._thinking), ThinkingFilter()
        rest, said = ahead.finish(), (whole.feed(text) + whole.finish()).strip()
        before = (rest if ahead.restarts != self._restarts else "".join(self._plain) + rest).strip()
        return said[len(before) :] if before and said.startswith(before) else text

    def _show(self, text: str) -> str:
        if self._thinking.restarts != self._restarts:
            self._restarts = self._thinking.restarts
            self._answer = AnswerFilter(len(self._texts), self._texts)
            self._plain.clear()
            self._kept.clear()
            self._void = self._void or self._shown
        self._plain.append(text)
        self._left -= len(text)
        if self._left < 0:
            # The server does not keep to max_tokens.
            self._finish, self.done = Finish.LENGTH, True
        shown = self._answer.feed(text)
        self._kept.append(shown)
        if self._void:
            return ""  # only the end can say that what was shown is void
        self._shown = self._shown or bool(shown)
        return shown

    # --- the end ----------------------------------------------------------------------------------------------------

    def _check_failures(self) -> None:
        """Raise for an end that is none of an answer."""
        if not self._events and not self.done:
            raise Unavailable("the endpoint sent no chat completion; check its url")
        if self._finish is Finish.FAILED:
            raise Unavailable("the endpoint reports by its finish_reason that it failed")
        if self._called_tool or self._finish is Finish.TOOL:
            raise Unavailable("the model called a tool in place of answering; switch tools off at the endpoint")
        if self._refused:
            raise NoAnswer("the model refused to answer this question")
        if self._finish is Finish.UNKNOWN:
            raise Unavailable("the endpoint ended with a finish_reason that is not known")
        if (self._finish is None and not self.done) or (self._contradicted and not self.done):
            raise Unavailable("the connection to the endpoint ended in the middle of an answer")

    def _no_text(self) -> Unavailable:
        thought = self._thought or self._thinking.thought
        if self._finish is Finish.LENGTH:
            before = "its thoughts ended" if thought else "it wrote anything"
            return NoAnswer(f"the model was stopped at max_tokens before {before}")
        if self._finish is Finish.FILTERED:
            return NoAnswer("the endpoint's content filter took the answer away")
        if thought:
            return Unavailable("the model wrote thoughts and no answer; switch thinking off by extra_parameters")
        return Unavailable("the endpoint ended without any text")

    def _whole(self, text: str, plain: str) -> tuple[str, tuple[Notice, ...]]:
        """The answer up to where it is whole, and what the caller should know about its end."""
        if self._finish in (Finish.LENGTH, Finish.FILTERED):
            whole = whole_sentences(text)
            if not _MARKERS.search(whole):
                how = "at max_tokens" if self._finish is Finish.LENGTH else "by the endpoint's content filter"
                raise NoAnswer(f"the model was stopped {how} before it had written a whole sentence with its source")
            return whole, (CUT_OFF if self._finish is Finish.LENGTH else FILTERED,)
        if self._finish is None:
            if not ends_whole(text or plain):
                raise Unavailable("the endpoint ended in the middle of a sentence, without a finish_reason")
            return text, (UNCONFIRMED,)
        return text, ()


def _reported(words: str) -> Unavailable:
    return Unavailable(f"the endpoint reported an error in place of an answer{f' ({words})' if words else ''}")


def _estimate(size: int) -> int:
    return max(1, -(-size // _BYTES_PER_TOKEN))
