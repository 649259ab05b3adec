"""``groundwire demo``: a private mesh, an example corpus, questions with cited answers, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from rich.text import Text

import cli
from cli.ask import Question, ask
from cli.client import connect
from cli.documents import Entry, find
from cli.errors import CliError, ExitCode, usage
from cli.ingest import ingest
from cli.interrupts import first_of, interrupts
from cli.mesh import Plan, environment_of, plan, supervisor
from cli.options import Globals
from cli.output import Screen
from cli.progress import progress
from cli.text import one_line, plural, seconds
from cli.token import mint
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.runtime.settings import TOKEN_VARIABLE, Settings

_EVERYBODY = "tenant:*"
_LOG_TAIL = 15
_TOP_K = 50
# How many documents are taken in so that it does not take long: embedding is work for the processor.
_PART = 16


@dataclass(frozen=True)
class Example:
    """A question with what a right answer holds."""

    question: str
    answerable: bool
    expected: tuple[str, ...]
    sources: tuple[str, ...]


def demo(screen: Screen, *, examples: Path | None, complete: bool, processes: bool) -> int:
    """Run the demonstration; FAILED when an answer is not what the corpus says."""
    folder = examples or Path(cli.__file__).resolve().parent.parent / "examples"
    entries, questions = load_examples(folder)
    chosen = entries if complete else a_part(entries, questions)
    # A person's own settings may name real stores and endpoints: a demonstration must not touch them.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GROUNDWIRE_") or name == "GROUNDWIRE_MODELS_DIR"
    }
    with tempfile.TemporaryDirectory(prefix="groundwire-demo-") as scratch:
        planned = plan(Globals(), data_dir=Path(scratch) / "data", port_base=0, level="info", environment=environment)
        # Its calls carry a token of the private mesh, whatever token this environment holds.
        with environment_of(planned.environment):
            return asyncio.run(
                _run(screen, planned, Path(scratch), chosen, len(entries), questions, processes=processes)
            )


def load_examples(folder: Path) -> tuple[tuple[Entry, ...], list[Example]]:
    """The corpus and the questions of the demonstration."""
    corpus, questions = folder / "corpus", folder / "questions.toml"
    if not (corpus / "manifest.toml").is_file() or not questions.is_file():
        raise usage(
            f"the example corpus is not in {folder}; run the demo from a checkout of the project, "
            "or name the folder that holds corpus/ and questions.toml with --examples"
        )
    with questions.open("rb") as file:
        tables = tomllib.load(file)["questions"]
    asked = [
        Example(table["question"], table["answerable"], tuple(table["expected"]), tuple(table["sources"]))
        for table in tables
        if table.get("demo")
    ]
    return find([corpus], None, None).entries, asked


def a_part(entries: Sequence[Entry], questions: Sequence[Example], most: int = _PART) -> list[Entry]:
    """Some of the corpus, in its order: every source, every restricted document, and others of each format in turn."""
    sources = {source for example in questions for source in example.sources}
    part = {entry.document_id for entry in entries if entry.document_id in sources or is_restricted(entry)}
    by_format: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.document_id not in part:
            by_format.setdefault(entry.path.suffix, []).append(entry)
    turns = (entry for turn in zip_longest(*by_format.values()) for entry in turn if entry is not None)
    part |= {entry.document_id for entry in islice(turns, max(0, most - len(part)))}
    return [entry for entry in entries if entry.document_id in part]


def is_restricted(entry: Entry) -> bool:
    """Whether only some people may read it."""
    return bool(entry.readers) and _EVERYBODY not in (entry.readers or ())


async def _run(
    screen: Screen,
    planned: Plan,
    scratch: Path,
    entries: Sequence[Entry],
    available: int,
    questions: Sequence[Example],
    *,
    processes: bool,
) -> int:
    log = scratch / "services.log"
    begin = time.monotonic()
    with log.open("wb") as output:
        running = supervisor(planned, processes=processes, say=lambda text: screen.note(f"demo: {text}"), output=output)
        with interrupts(again=running.kill) as interrupted:
            showing = asyncio.ensure_future(_Show(screen, planned).run(running.start, entries, available, questions))
            try:
                await first_of(showing, interrupted.first)
                if not showing.done():
                    showing.cancel()
                    await asyncio.wait({showing})
                    return interrupted.exit_code
                wrong = showing.result()
            except CliError:
                _show_tail(screen, log)
                raise
            finally:
                with screen.err.status("Cleaning up …"):
                    await running.stop()
    if wrong:
        raise CliError("the demo did not show what it should", details=wrong)
    _show_next(screen, time.monotonic() - begin)
    return ExitCode.OK


class _Show:
    """The demonstration itself; ``wrong`` collects what was not as it should be."""

    def __init__(self, screen: Screen, planned: Plan) -> None:
        self._screen = screen
        self._settings = planned.settings
        self._where = planned.addresses
        self._wrong: list[str] = []

    async def run(
        self,
        start: Callable[[], Awaitable[None]],
        entries: Sequence[Entry],
        available: int,
        questions: Sequence[Example],
    ) -> list[str]:
        """Show everything; ``entries`` are some of the ``available`` documents. Returns what was wrong."""
        begin = time.monotonic()
        self._heading("Start a private mesh on free ports")
        with self._screen.err.status("Starting the store, then the other services …"):
            await start()
        self._done(f"{len(self._where)} services are ready on loopback ({seconds(time.monotonic() - begin)})")
        await self._take_in(entries, available)
        self._heading("Ask: three questions that the corpus answers, and one that it does not")
        for example in sorted(questions, key=lambda example: not example.answerable):
            await self._ask(example)
        await self._look_for_restricted(entries)
        return self._wrong

    async def _take_in(self, entries: Sequence[Entry], available: int) -> None:
        formats = sorted({entry.path.suffix.lstrip(".") for entry in entries})
        number = plural(len(entries), "document")
        if len(entries) < available:
            number = f"{len(entries)} of the {available} example documents (--all takes every one)"
        self._heading(f"Ingest {number}: {', '.join(formats)}")
        report = await ingest(
            self._where["ingestion"], "", entries, progress(self._screen.err, "Ingesting", "document")
        )
        for result in report.failed:
            self._failed(f"{result.entry.shown} was not taken in: {result.reason}: {result.message}")
        passages = sum(result.chunks for result in report.results)
        taken = len(report.results) - len(report.failed)
        self._done(
            f"{plural(taken, 'document')} parsed, split into {plural(passages, 'passage')}, embedded and indexed "
            f"({seconds(report.seconds)})"
        )

    async def _ask(self, example: Example) -> None:
        self._screen.out.print()
        self._screen.out.print(Text(f"❯ {example.question}", style="bold cyan"))
        response = await ask(
            self._screen, self._where["query"], Question(query_pb.QueryRequest(query=example.question))
        )
        if not example.answerable:
            if response.abstained:
                self._done("rightly declined: the corpus does not say")
            else:
                self._failed(f"answered without support: {example.question}")
            return
        cited = {source.document_id for source in response.sources if source.cited}
        if response.abstained:
            self._failed(f"declined, though the corpus answers it: {example.question}")
        elif not cited & set(example.sources):
            self._failed(f"does not cite {' or '.join(example.sources)}: {example.question}")
        elif missing := [text for text in example.expected if text not in response.answer]:
            self._failed(f"does not say {', '.join(missing)}: {example.question}")
        else:
            self._done(f"cites {', '.join(sorted(cited & set(example.sources)))}")

    async def _look_for_restricted(self, entries: Sequence[Entry]) -> None:
        hidden = {entry.document_id: entry for entry in entries if is_restricted(entry)}
        if not hidden:
            return
        self._heading(f"Search for the {plural(len(hidden), 'document')} that only certain groups may read")
        developer = await self._found(hidden.values())
        for document_id, entry in hidden.items():
            who = ", ".join(entry.readers or ())
            with acting_as(self._settings, entry.readers or ()):
                member = await self._found([entry])
            if document_id in developer:
                self._failed(f"{entry.title}, readable by {who} alone, was found by somebody else")
            elif document_id not in member:
                self._failed(f"{entry.title} was not found by a reader of {who}")
            else:
                self._done(f"{entry.title}: found by a member of {who}, hidden from the developer who ingested it")

    async def _found(self, entries: Iterable[Entry]) -> set[str]:
        """The documents that searches for the titles of ``entries`` find."""
        tls = self._settings.tls
        async with connect("retrieval", self._where["retrieval"], tls) as channel:
            stub = retrieval_rpc.RetrievalServiceStub(channel)
            answers = await asyncio.gather(
                *(
                    stub.Retrieve(retrieval_pb.RetrieveRequest(query=entry.title, top_k=_TOP_K), timeout=30.0)
                    for entry in entries
                )
            )
        return {hit.chunk.document_id for answer in answers for hit in answer.chunks}

    def _heading(self, text: str) -> None:
        self._screen.out.print()
        self._screen.out.print(Text(f"── {text}", style="bold"))

    def _done(self, text: str) -> None:
        self._screen.out.print(Text(f"✓ {text}", style="green"), soft_wrap=True)

    def _failed(self, text: str) -> None:
        self._wrong.append(text)
        self._screen.out.print(Text(f"✗ {text}", style="bold red"), soft_wrap=True)


@contextmanager
def acting_as(settings: Settings, readers: Iterable[str]) -> Iterator[None]:
    """Let commands call as somebody who has the role of a reader and belongs to the groups in ``readers``."""
    groups = [group for kind, _, group in (reader.partition(":") for reader in readers) if kind == "group"]
    token = mint(
        settings, subject="member", tenant=settings.development.tenant, groups=groups, roles=("reader",),
        lifetime=600, issuer=None, warn=lambda _: None,
    )  # fmt: skip
    os.environ[TOKEN_VARIABLE] = token
    try:
        yield
    finally:
        del os.environ[TOKEN_VARIABLE]


def _show_tail(screen: Screen, log: Path) -> None:
    """The services' last words, which the demonstration keeps off the screen."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:]:
        screen.note(f"  {one_line(line, 400)}", style="dim")


def _show_next(screen: Screen, took: float) -> None:
    lines = {
        "groundwire up": "run it for good; it prints the addresses and grpcurl calls",
        "groundwire ingest DIR": "your own documents: --readers says who may read them",
        'groundwire ask "…"': "your own questions; add --output json for scripts",
        "groundwire doctor": "when something does not work",
    }
    width = max(map(len, lines))
    screen.out.print()
    screen.out.print(Text(f"── Next (the demo took {seconds(took)} and has removed its data)", style="bold"))
    for command, why in lines.items():
        screen.out.print(Text.assemble("  ", (command.ljust(width), "cyan"), "  ", (why, "dim")), soft_wrap=True)
