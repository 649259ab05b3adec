"""``groundwire doctor``: what on this machine, or in the settings, keeps Groundwire from working."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rich.text import Text

from cli.caller import where_tokens_are_from
from cli.errors import CliError, ExitCode
from cli.mesh import listen_problem
from cli.options import Globals
from cli.output import Format, Screen
from cli.services import NAMES, settings_class
from cli.status_ask import Peers, Where
from cli.status_view import HEALTHY, UNHEALTHY
from cli.streams import fitted
from cli.tables import GAP
from cli.text import plural, size
from services.corpus.errors import GroundwireError
from services.embedding.weights import BGE_SMALL_EN, MS_MARCO_MINILM_L12, WeightSources, find_weights
from services.runtime.data_directory import obstacles
from services.runtime.options import TlsOptions
from services.runtime.otlp import configured_collector, try_export
from services.runtime.settings import TOKEN_VARIABLE, ConfigurationError, Settings
from services.runtime.tls import listening_tls
from services.vectorstores.chunk_table import find_term_order

OK, WARN, FAIL = "OK", "WARN", "FAIL"
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}
_LOW_SPACE = 1024**3
_NO_SPACE = 64 * 1024**2
_SECRET_WORDS = ("secret", "password", "token", "key", "credential")
_HIDDEN = "********"
# A certificate that expires sooner should have been renewed.
_RENEWAL = timedelta(days=7)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``remedy`` is empty where all is well."""

    state: str
    what: str
    found: str
    remedy: str = ""


async def show_doctor(screen: Screen, options: Globals) -> int:
    """Look at everything, show it, and return the exit code."""
    findings = [python_version()]
    settings, effective, problems = read_settings(options)
    findings += problems
    if settings is not None:
        with screen.err.status("Looking …"):
            findings += await asyncio.gather(
                *(asyncio.to_thread(weights, spec.name, settings.models_dir) for spec in _MODELS.values())
            )
            findings += data_directory(settings.data_dir)
            findings += await asyncio.to_thread(lambda: list(word_order(settings)))
            findings.append(callers(settings))
            findings += await asyncio.gather(*(address(name, settings.address(name), settings.tls) for name in NAMES))
            findings += await asyncio.to_thread(lambda: list(tls(settings)))
            findings.append(await asyncio.to_thread(traces))
    if screen.format is Format.JSON:
        screen.json({"findings": [asdict(finding) for finding in findings], "settings": effective})
    elif screen.format is Format.TEXT:
        screen.text(
            *(f"{f.state}\t{f.what}\t{f.found}\t{f.remedy}".rstrip() for f in findings),
            *(f"setting\t{name}\t{value}" for name, value in effective.items()),
        )
    else:
        _show_tables(screen, findings, effective)
    return ExitCode.FAILED if any(finding.state == FAIL for finding in findings) else ExitCode.OK


_MODELS = {spec.name: spec for spec in (BGE_SMALL_EN, MS_MARCO_MINILM_L12)}


def python_version(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Whether this Python is new enough."""
    shown = ".".join(map(str, version))
    if version < (3, 11):
        return Finding(FAIL, "Python", shown, "install Python 3.11 or newer and make the environment anew")
    return Finding(OK, "Python", shown)


def read_settings(options: Globals) -> tuple[Settings | None, dict[str, str], list[Finding]]:
    """The shared settings, all effective ones by their dotted names, and what is wrong."""
    effective: dict[str, Any] = {}
    shared: Settings | None = None
    problems: dict[str, None] = {}
    for name in NAMES:
        try:
            loaded = options.load(settings_class(name))
        except CliError as error:
            problems |= dict.fromkeys((error.message, *error.details))
        else:
            shared = loaded
            effective |= dict(flatten(loaded.model_dump(mode="json")))
    source = options.config or os.environ.get("GROUNDWIRE_CONFIG") or "environment and defaults"
    if not problems:
        return shared, effective, [Finding(OK, "Settings", f"valid ({source})")]
    found = [Finding(FAIL, "Settings", problem, "correct or remove this setting") for problem in problems]
    return None, effective, found


def flatten(tree: Any, path: str = "", *, hidden: bool = False) -> Iterator[tuple[str, str]]:
    """Settings by dotted name, with everything that may be a secret hidden."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            secret = hidden or str(key).lower().rpartition("_")[2] in _SECRET_WORDS
            yield from flatten(value, f"{path}.{key}" if path else str(key), hidden=secret)
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for n, item in enumerate(tree):
            yield from flatten(item, f"{path}.{n}", hidden=hidden)
    elif tree in (None, "", [], {}):
        yield path, ""
    elif hidden:
        yield path, _HIDDEN
    elif isinstance(tree, list):
        yield path, ", ".join(without_password(str(item)) for item in tree)
    else:
        yield path, without_password(str(tree))


def without_password(text: str) -> str:
    """A URL without its password; other texts as they are."""
    if "://" not in text or "@" not in text:
        return text
    try:
        url = urlsplit(text)
    except ValueError:
        return _HIDDEN
    userinfo, _, host = url.netloc.rpartition("@")
    if ":" not in userinfo:
        return text
    return urlunsplit(url._replace(netloc=f"{userinfo.partition(':')[0]}:{_HIDDEN}@{host}"))


def weights(model: str, models_dir: Path | None) -> Finding:
    """Whether a model's files are there and are the pinned ones."""
    try:
        found = find_weights(_MODELS[model], WeightSources(models_dir))
    except GroundwireError as error:
        problem, _, remedy = error.message.partition("; ")
        return Finding(FAIL, "Model", problem, remedy)
    folder = next(iter(found.values())).parent
    return Finding(OK, "Model", f"{model}: {plural(len(found), 'file')} verified in {folder}")


def data_directory(path: Path) -> Iterator[Finding]:
    """Whether durable data can be kept in ``path``, and who does so now."""
    if problem := obstacles(path):
        remedy = "change its owner or mode, or set GROUNDWIRE_DATA_DIR to a directory that can be written"
        yield Finding(FAIL, "Data", f"{path} cannot be used: {problem}", remedy)
        return
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    yield Finding(OK, "Data", f"{path}" + ("" if path.exists() else " (made at the first start)"))
    free = shutil.disk_usage(existing).free
    state = OK if free >= _LOW_SPACE else WARN if free >= _NO_SPACE else FAIL
    yield Finding(state, "Space", f"{size(free)} free", "" if state is OK else "free some space on this disk")
    lock = path / "store" / "store.lock"
    holders = list(lock_holders(lock))
    if holders:
        yield Finding(OK, "Lock", "held by " + ", ".join(f"process {pid} ({name})" for pid, name in holders))
    else:
        yield Finding(OK, "Lock", "free")


def word_order(settings: Settings) -> Iterator[Finding]:
    """Whether the store of this data directory still tells in which order the words of texts came.

    Nothing is said of a store that has nothing yet, or whose words are in clear.
    """
    table = settings.data_dir / "store" / "chunks.sqlite3"
    if not settings.encryption.enabled or not table.is_file():
        return
    try:
        order = find_term_order(table)
    except GroundwireError as error:
        yield Finding(WARN, "Words", f"{table} cannot be looked at: {error.message}", "run this as the mesh's own user")
        return
    if order.in_text_order == 0:
        yield Finding(OK, "Words", f"in no order in {plural(order.looked_at, 'passage')} looked at")
        return
    yield Finding(
        WARN,
        "Words",
        f"{order.in_text_order:,} of {plural(order.looked_at, 'passage')} looked at keep their keyed words in the order of "
        "the text, as releases before did",
        "rewrite them while the mesh runs, with `groundwire keys rotate --all-tenants`; then make a new backup and remove "
        "those from before",
    )


def lock_holders(lock: Path, locks: Path = Path("/proc/locks")) -> Iterator[tuple[int, str]]:
    """The processes that hold a flock on ``lock``, as far as Linux tells."""
    with contextlib.suppress(OSError, ValueError):
        inode = lock.stat().st_ino
        for line in locks.read_text(encoding="ascii").splitlines():
            # "12: FLOCK  ADVISORY  WRITE 4242 08:02:131081 0 EOF"; waiting ones have "->" before the kind.
            parts = line.split()
            if len(parts) >= 6 and parts[1] == "FLOCK" and int(parts[5].rpartition(":")[2]) == inode:
                yield int(parts[4]), _command(int(parts[4]))


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "of another user"
    return " ".join(word for word in words if word)[:80] or "unknown"


def callers(settings: Settings) -> Finding:
    """Who is let in."""
    issuers = settings.authentication.issuers
    if issuers:
        found = "need a token of " + ", ".join(issuer.name for issuer in issuers)
        if os.environ.get(TOKEN_VARIABLE, "").strip():
            return Finding(OK, "Callers", f"{found}; commands send the one in {TOKEN_VARIABLE}")
        remedy = f"commands have none: {where_tokens_are_from(issuers)}"
        return Finding(OK, "Callers", found, remedy)
    if settings.authentication.required:
        return Finding(
            OK, "Callers", "need a token, which whoever can read the data directory can make; this machine only"
        )
    return Finding(
        WARN, "Callers", "everybody on this machine, without a token", "set authentication.required = true, or issuers"
    )


async def address(name: str, where: str, options: TlsOptions | None = None) -> Finding:
    """Whether a service could listen at ``where``, or a groundwire answers there already."""
    async with Peers(Where({name: where}, patience=2.0, tls=options)) as peers:
        answer = await peers.check(name)
    if answer.state != UNHEALTHY:
        state = OK if answer.state == HEALTHY else WARN
        return Finding(state, "Address", f"{name} {where}: groundwire answers, {answer.state}", answer.detail)
    if where.startswith("unix:"):
        return Finding(OK, "Address", f"{name} {where}: free")
    host, _, port = where.rpartition(":")
    problem = await asyncio.to_thread(listen_problem, host.strip("[]"), int(port))
    if problem is None:
        return Finding(OK, "Address", f"{name} {where}: free")
    return Finding(
        FAIL,
        "Address",
        f"{name} {where}: {problem}",
        f"end the program that has it, or set GROUNDWIRE_ADDRESSES__{name.upper()} (or `groundwire up --port-base N`)",
    )


def tls(settings: Settings, now: datetime | None = None) -> Iterator[Finding]:
    """Whether every service may listen where it should, and when the first of their certificates expires."""
    now = now or datetime.now(UTC)
    ends: list[datetime] = []
    problems: dict[str, None] = {}
    for name in NAMES:
        try:
            opened = listening_tls(settings, name, settings.address(name))
        except ConfigurationError as error:
            problems[str(error)] = None
        else:
            if opened is not None and (end := opened.current().not_after):
                ends.append(end)
    for problem in problems:
        yield Finding(FAIL, "TLS", problem, "correct this setting or this file; `groundwire certs` makes certificates")
    if problems:
        return
    if not ends:
        yield Finding(OK, "TLS", "off; docs/tls.md says how to switch it on")
        return
    left = min(ends) - now
    found = f"the first certificate expires at {min(ends):%Y-%m-%d %H:%M} UTC, in {plural(left.days, 'day')}"
    soon = left < _RENEWAL
    yield Finding(WARN if soon else OK, "TLS", found, "renew it; nothing needs to be restarted" if soon else "")


def traces() -> Finding:
    """Whether traces go anywhere, and what the collector says to one span."""
    try:
        collector = configured_collector()
    except ConfigurationError as error:
        return Finding(FAIL, "Traces", str(error), "correct this variable: nothing starts with it")
    if collector is None:
        return Finding(OK, "Traces", "off; OTEL_EXPORTER_OTLP_ENDPOINT switches them on")
    shown = f"{collector.protocol} to {without_password(collector.endpoint)}"
    problem = try_export(collector)
    if problem is None:
        return Finding(OK, "Traces", f"{shown}: the collector took a span")
    remedy = (
        "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL: most listen for "
        "grpc on port 4317 and for http/protobuf on 4318; calls go on without traces"
    )
    return Finding(FAIL, "Traces", f"{shown}: no span was taken: {without_password(problem)}", remedy)


def _show_tables(screen: Screen, findings: list[Finding], effective: dict[str, str]) -> None:
    # Lines, and no table: a path that is too long for a cell would be broken, and could not be copied.
    widths = (max(len(finding.state) for finding in findings), max(len(finding.what) for finding in findings))
    indent = sum(widths) + 2 * GAP
    for finding in findings:
        state, what = finding.state.ljust(widths[0]), finding.what.ljust(widths[1])
        screen.out.print(
            Text.assemble(
                (state, _COLOURS[finding.state]),
                " " * GAP,
                (what, "cyan"),
                " " * GAP,
                _beside(finding.found, indent, screen.out.width),
            ),
            soft_wrap=True,
        )
        if finding.remedy:
            remedy = _beside(f"→ {finding.remedy}", indent, screen.out.width)
            screen.out.print(Text(" " * indent + remedy, style="bold"), soft_wrap=True)
    if effective:
        screen.out.print(Text("\nEffective settings", style="bold"))
        width = max(map(len, effective))
        for name, value in effective.items():
            told = _beside(value, width + GAP, screen.out.width)
            screen.out.print(Text.assemble((name.ljust(width), "dim"), " " * GAP, told), soft_wrap=True)


def _beside(text: str, indent: int, width: int) -> str:
    """``text`` in lines that fit beside a column of ``indent``; a longer word stays whole."""
    return fitted(text, width - indent).replace("\n", "\n" + " " * indent)
