"""Which files are taken in, and what is known about them: folders, manifests, document ids."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cli.errors import usage

EXTENSIONS = frozenset(
    {".txt", ".text", ".log", ".md", ".markdown", ".mdown", ".html", ".htm", ".xhtml", ".pdf", ".docx"}
)
MANIFEST = "manifest.toml"
MAX_BYTES = 32 * 1024 * 1024
NOT_A_FILE = "NOT_A_FILE"
_LINKED = "It is a link, or below one; --follow-links takes in those that lead to files in the same folder."
# To pass through: a folder that may not be listed, too, where the system can tell them apart.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_ID = 128
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]+")
# What is shown as a file's type; anything else behind a dot is part of its name.
_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,12}")
_SEVERAL = {
    "hidden folder": "hidden folders",
    "link": "links",
    "link to a folder": "links to folders",
    "unreadable folder": "unreadable folders",
}
_KINDS = 8
_KEYS = frozenset({"path", "document_id", "title", "uri", "readers", "metadata"})
Scalar = str | float | bool


@dataclass(frozen=True)
class Entry:
    """One file to take in. ``readers`` is None where nothing says who may read it."""

    path: Path
    shown: str
    document_id: str
    title: str = ""
    uri: str = ""
    readers: tuple[str, ...] | None = None
    metadata: Mapping[str, Scalar | tuple[str, ...]] = field(default_factory=dict)
    size: int = 0
    problem: tuple[str, str] | None = None
    """Why it is not sent at all: a reason and a sentence."""
    root: Path | None = None
    """The folder, without links in its own path, that it is read in; None where the command line names the file."""


@dataclass(frozen=True)
class Found:
    """What the command line names. ``unlisted`` are files that lie beside a manifest but are not in it.

    ``skipped`` counts what lies in the folders and is not taken in, by its type: ``.png``, ``hidden``.
    """

    entries: tuple[Entry, ...]
    unlisted: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def find(
    paths: Sequence[Path], manifest: Path | None, readers: Sequence[str] | None, *, follow_links: bool = False
) -> Found:
    """The files under ``paths``, with what manifests say about them.

    A folder's own ``manifest.toml`` counts for the folder; ``manifest`` adds one more, whose paths are relative to
    itself. ``readers`` are for files whose readers no manifest names: a manifest's restriction is never widened.
    Links below a folder are skipped; with ``follow_links`` those to files in the same folder are not. Links to folders
    always are: what lies in the same folder is taken in where it lies.
    Raises CliError for a path that is not there or a manifest that cannot be used.
    """
    listed: dict[Path, Mapping[str, Any]] = {}
    entries: list[Entry] = []
    unlisted: list[str] = []
    skipped: Counter[str] = Counter()
    if manifest is not None:
        listed |= read_manifest(manifest)
        if not paths:
            entries = [_listed_entry(path, manifest.parent, table) for path, table in listed.items()]
    for path in paths:
        if path.is_dir():
            own = path / MANIFEST
            known = listed | (read_manifest(own) if own.is_file() else {})
            inside = {file for file in known if file.is_relative_to(_real(path))}
            walked = _walk(path, follow_links=follow_links)
            skipped.update(kind for file, kind in walked.skipped if _real(file) not in inside)
            for file in sorted({*map(_real, walked.files), *inside}):
                if file in known:
                    entries.append(_listed_entry(file, _real(path), known[file]))
                    continue
                entries.append(replace(_plain_entry(file, _real(path)), root=path.resolve()))
                if known:
                    unlisted.append(entries[-1].shown)
        elif path.exists():
            file = _real(path)
            table = listed.get(file)
            entries.append(
                _plain_entry(file, file.parent)
                if table is None
                else replace(_listed_entry(file, file.parent, table), root=None)
            )
        else:
            raise usage(f"{path} is not there; name a file or a folder")
    return Found(tuple(_checked(entries, readers, follow_links=follow_links)), tuple(unlisted), skipped)


def read_manifest(path: Path) -> dict[Path, Mapping[str, Any]]:
    """The tables of a manifest by the file that each describes."""
    try:
        tables = tomllib.loads(path.read_bytes().decode()).get("documents", [])
    except OSError as error:
        raise usage(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise usage(f"{path} is not valid TOML: {error}") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise usage(f"{path}: `documents` must be an array of tables: write [[documents]]")
    root = _real(path.parent)
    problems, found = [], {}
    for n, table in enumerate(tables, start=1):
        name = table.get("path")
        where = f"[[documents]] number {n}" + (f" ({name})" if isinstance(name, str) else "")
        problems += [f"{where}: {problem}" for problem in _table_problems(table)]
        if not isinstance(name, str) or not name:
            continue
        file = _real(root / name)
        if not file.is_relative_to(root):
            problems.append(f"{where}: path leads out of the manifest's folder")
        elif file in found:
            problems.append(f"{where}: the file is listed twice")
        else:
            found[file] = table
    if problems:
        raise usage(f"{path} has wrong entries", *problems)
    return found


def document_id_of(relative: str) -> str:
    """A document id for a file by its path in the folder, the same on every run.

    ``policies/Travel Policy.pdf`` becomes ``policies-Travel-Policy.pdf``. Letters that an id cannot have lose their
    accents; where that is not enough, or the name is too long, a digest of the path keeps ids apart.
    """
    folded = unicodedata.normalize("NFKD", relative).encode("ascii", "ignore").decode()
    kept = sum(not unicodedata.combining(letter) for letter in unicodedata.normalize("NFKD", relative))
    name = _NOT_IN_ID.sub("-", folded).strip("-") or "document"
    if len(folded) == kept and len(name) <= _MAX_ID:
        return name
    digest = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{name[: _MAX_ID - 11]}-{digest}"


@dataclass(frozen=True)
class _Walked:
    """The files of a folder that are taken in, and what is not, with its type."""

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def _walk(folder: Path, *, follow_links: bool) -> _Walked:
    walked = _Walked()
    root = folder.resolve()

    def unreadable(error: OSError) -> None:
        walked.skipped.append((Path(error.filename), "unreadable folder"))

    for directory, folders, files in os.walk(folder, onerror=unreadable):
        for name in folders:
            if name.startswith("."):
                walked.skipped.append((Path(directory, name), "hidden folder"))
            elif Path(directory, name).is_symlink():
                walked.skipped.append((Path(directory, name), "link to a folder"))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory, name)
            if name == MANIFEST and directory == str(folder):
                continue
            if kind := _kind_of_skipped(path):
                walked.skipped.append((path, kind))
            elif path.is_symlink() and not (follow_links and _leads_into(path, root)):
                walked.skipped.append((path, "link"))
            else:
                walked.files.append(path)
    return walked


def _leads_into(path: Path, root: Path) -> bool:
    """Whether ``path`` is below ``root``, which has no links in it, once every link is followed."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # such as links that lead in a circle
        return False


def _kind_of_skipped(path: Path) -> str:
    """Why a file in a folder is not taken in, as a type to count; empty if it is."""
    if path.name.startswith("."):
        return "hidden"
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return ""
    return suffix if _SUFFIX.fullmatch(suffix) else "without a known ending"


def skipped_by_type(skipped: Mapping[str, int]) -> str:
    """``12: 8 .png, 3 .zip, 1 hidden``: the most frequent types first, and rare ones together."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {kind if count == 1 else _SEVERAL.get(kind, kind)}" for kind, count in ordered[:_KINDS]]
    if rest := ordered[_KINDS:]:
        parts.append(f"{sum(count for _, count in rest):,} of {len(rest)} other types")
    return f"{sum(skipped.values()):,}: {', '.join(parts)}"


def _real(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and so change names


def _plain_entry(file: Path, root: Path) -> Entry:
    shown = file.relative_to(root).as_posix()
    return Entry(path=file, shown=shown, document_id=document_id_of(shown), uri=_uri(shown))


def _listed_entry(file: Path, root: Path, table: Mapping[str, Any]) -> Entry:
    shown = file.relative_to(_real(root)).as_posix()
    readers = table.get("readers")
    return Entry(
        path=file,
        shown=shown,
        document_id=table.get("document_id") or document_id_of(shown),
        title=table.get("title", ""),
        uri=table.get("uri") or _uri(shown),
        readers=None if readers is None else tuple(readers),
        root=root.resolve(),
        metadata={
            key: tuple(value) if isinstance(value, list) else value for key, value in table.get("metadata", {}).items()
        },
    )


def _uri(shown: str) -> str:
    # A name that is not valid UTF-8 cannot be sent as it is.
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _checked(entries: Sequence[Entry], readers: Sequence[str] | None, *, follow_links: bool) -> Iterator[Entry]:
    """The entries with their sizes, default readers, and what keeps them from being sent."""
    owners: dict[str, str] = {}
    for entry in entries:
        size, problem = 0, None
        path = entry.path
        if entry.root is not None:
            # Where it lies: no link is followed when it is read.
            direct = entry.root / entry.shown
            leads_in = _leads_into(path, entry.root)
            path = path.resolve() if follow_links and leads_in else direct
            if os.path.lexists(direct) and (not leads_in or (path == direct and path.resolve() != direct)):
                problem = ("LINK", _LINKED if leads_in else "It is a link, or below one, that leads out of the folder.")
        try:
            status = path.stat()
        except OSError as error:
            problem = ("UNREADABLE", f"The file cannot be read: {error.strerror}.")
        else:
            size = status.st_size
            if problem is None and not stat.S_ISREG(status.st_mode):
                problem = (NOT_A_FILE, what_it_is(status.st_mode))
        first = owners.setdefault(entry.document_id, entry.shown)
        if first != entry.shown:
            problem = (
                "DUPLICATE_ID",
                f"{first} has the same document id, {entry.document_id}; give one of them another in a manifest.",
            )
        elif size > MAX_BYTES:
            problem = ("TOO_LARGE", f"The file has {size / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are taken.")
        elif problem is None and size == 0:
            problem = ("EMPTY", "The file is empty.")
        given = entry.readers if entry.readers is not None else (tuple(readers) if readers else None)
        yield replace(entry, path=path, readers=given, size=size, problem=problem)


def open_to_read(entry: Entry) -> int:
    """A descriptor of the file; of one in a folder without following a link on the way, even one that is new.

    It never waits, as for the other end of a pipe. OSError if it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if entry.root is None:
        return os.open(entry.path, flags)
    folder = os.open(entry.root, _FOLDER)
    try:
        *folders, name = entry.path.relative_to(entry.root).parts
        for part in folders:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def what_it_is(mode: int) -> str:
    """What stands in a file's place, as a sentence."""
    kinds = {
        stat.S_IFIFO: "a pipe; write what comes out of it into a file first",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a directory",
    }
    return f"It is no regular file but {kinds.get(stat.S_IFMT(mode), 'something else')}."


def _table_problems(table: Mapping[str, Any]) -> Iterator[str]:
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        yield f"no such key: {', '.join(unknown)}; there are {', '.join(sorted(_KEYS))}"
    if not isinstance(table.get("path"), str) or not table["path"] or PurePosixPath(table["path"]).is_absolute():
        yield "path must be the file's path relative to the manifest"
    for key in ("document_id", "title", "uri"):
        if not isinstance(table.get(key, ""), str):
            yield f"{key} must be a text"
    if isinstance(table.get("document_id"), str) and not _ID.fullmatch(table["document_id"]):
        yield "document_id must be 1 to 128 of A-Z a-z 0-9 . _ -"
    readers = table.get("readers", [])
    if not isinstance(readers, list) or not all(isinstance(reader, str) for reader in readers):
        yield "readers must be an array of texts"
    else:
        yield from reader_problems(readers)
    metadata = table.get("metadata", {})
    if not isinstance(metadata, dict):
        yield "metadata must be a table"
        return
    for key, value in metadata.items():
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not texts and not isinstance(value, str | int | float | bool):
            yield f"metadata.{key} must be a text, a number, true or false, or an array of texts"


def reader_problems(readers: Sequence[str]) -> Iterator[str]:
    """What is wrong with each principal."""
    from services.corpus.errors import InvalidField  # noqa: PLC0415 - kept light for --help
    from services.corpus.principal import parse_principal  # noqa: PLC0415

    for reader in readers:
        try:
            parse_principal(reader)
        except InvalidField as error:
            yield f"reader {reader!r}: {error.why}"
