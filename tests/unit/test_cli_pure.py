"""The command line's pure parts: words, filters, files, backoff, findings."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli import doctor, ingest, services
from cli.demo import a_part, is_restricted, load_examples
from cli.documents import EXTENSIONS, Found, document_id_of, find
from cli.errors import CliError, ExitCode
from cli.filters import parse_filters
from cli.ingest_report import Result
from cli.output import Format, Screen
from cli.progress import Lines
from cli.supervisor import Backoff
from cli.text import one_line, plural, seconds, size
from cli.typewriter import Typewriter
from services.corpus.cleaning import cleaned
from services.runtime.settings import Settings

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Terminal:
    """As much of a terminal as the typewriter needs: it breaks lines at its own width and obeys two sequences."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines = [""]
        self.row = 0

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|.", text, re.DOTALL):
            if part == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            elif part == "\r":
                pass
            elif part.endswith("A") and len(part) > 1:
                self.row -= int(part[2:-1])
            elif part == "\x1b[J":
                self.lines[self.row :] = [""]
            elif part.startswith("\x1b"):
                continue
            else:
                if cell_len(self.lines[self.row] + part) > self.width:
                    self.write("\n")
                self.lines[self.row] += part


_WORDS = st.lists(st.sampled_from(["a", "words", "[12]", "日本語", "x" * 70, "\n", " ", "  ", "€5."]), max_size=40)


@settings(deadline=None, max_examples=200)
@given(before=_WORDS, after=_WORDS, colour=st.booleans())
def test_what_was_typed_before_a_reset_leaves_no_trace(before: list[str], after: list[str], colour: bool) -> None:
    terminal, fresh = Terminal(24), Terminal(24)
    paper = Typewriter(width=24, height=10_000, colour=colour)
    terminal.write("".join(paper.feed(piece) for piece in before))
    terminal.write(paper.reset())
    assert paper.text == ""
    terminal.write("".join(paper.feed(piece) for piece in after) + paper.finish())
    other = Typewriter(width=24, height=10_000, colour=colour)
    fresh.write("".join(other.feed(piece) for piece in after) + other.finish())
    assert terminal.lines[: terminal.row + 1] == fresh.lines[: fresh.row + 1]
    assert paper.text == "".join(after)


@settings(deadline=None, max_examples=100)
@given(pieces=_WORDS)
def test_typed_words_stay_in_their_order_within_the_width(pieces: list[str]) -> None:
    paper = Typewriter(width=24, height=50, colour=False)
    shown = "".join(paper.feed(piece) for piece in pieces) + paper.finish()
    assert "".join(shown.split()) == "".join("".join(pieces).split())
    assert all(cell_len(line) <= 24 for line in shown.split("\n"))


def test_a_reset_of_more_than_the_screen_says_where_the_new_text_begins() -> None:
    paper = Typewriter(width=24, height=4, colour=False)
    paper.feed("one\ntwo\nthree\nfour\n")
    assert "starts over" in paper.reset()


@given(st.text())
def test_nothing_that_a_terminal_obeys_survives_cleaning(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", cleaned(text))
    assert "\n" not in one_line(text)
    assert len(one_line(text, 40)) <= 40


def test_numbers_for_people() -> None:
    assert [seconds(v) for v in (0.004, 0.5, 7.0, 42.4, 200.0)] == ["0 s", "0.5 s", "7 s", "42 s", "3 min 20 s"]
    assert [size(v) for v in (512, 1536, 3 * 2**30)] == ["512 B", "1.5 KiB", "3.0 GiB"]
    assert [plural(1, "file"), plural(1200, "file")] == ["1 file", "1,200 files"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["status=current"], {"equals": {"key": "status", "value": {"string_value": "current"}}}),
        (["year=2025"], {"equals": {"key": "year", "value": {"number_value": 2025.0}}}),
        (['zip="20457"'], {"equals": {"key": "zip", "value": {"string_value": "20457"}}}),
        (["public=true"], {"equals": {"key": "public", "value": {"bool_value": True}}}),
        (["year>=2024"], {"range": {"key": "year", "min": {"number_value": 2024.0}}}),
        (["effective<=2024-06-30"], {"range": {"key": "effective", "max": {"string_value": "2024-06-30"}}}),
        (["a!=b"], {"not": {"equals": {"key": "a", "value": {"string_value": "b"}}}}),
        (["a=x=y"], {"equals": {"key": "a", "value": {"string_value": "x=y"}}}),
        (
            ["k=a", "k=b"],
            {"in": {"key": "k", "values": [{"string_value": "a"}, {"string_value": "b"}]}},
        ),
        (
            ["k=a", "n>=1"],
            {
                "and": {
                    "filters": [
                        {"equals": {"key": "k", "value": {"string_value": "a"}}},
                        {"range": {"key": "n", "min": {"number_value": 1.0}}},
                    ]
                }
            },
        ),
    ],
)
def test_filters_become_the_contracts_filter(conditions: list[str], expected: dict[str, object]) -> None:
    parsed = parse_filters(conditions)
    assert parsed is not None
    assert MessageToDict(parsed, preserving_proto_field_name=True) == expected


def test_no_filter_is_none_and_a_wrong_one_is_a_usage_error() -> None:
    assert parse_filters([]) is None
    with pytest.raises(CliError, match="KEY=VALUE") as caught:
        parse_filters(["status"])
    assert caught.value.code is ExitCode.USAGE


@given(st.text(min_size=1, max_size=300))
def test_every_name_gives_a_valid_document_id(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", document_id_of(name))


def test_document_ids_are_readable_and_apart() -> None:
    assert document_id_of("policies/Travel Policy.pdf") == "policies-Travel-Policy.pdf"
    assert document_id_of("Übersicht.md") == "Ubersicht.md"
    assert document_id_of("旅費.md") != document_id_of("規程.md")
    assert document_id_of("a" * 200 + "1.md") != document_id_of("a" * 200 + "2.md")


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_folders_give_known_formats_and_skip_what_is_hidden(tmp_path: Path) -> None:
    names = {"b.md": "b", "a/c.PDF": "c", ".git/x.md": "x", "a/.hidden.md": "h", "image.png": "i", "code.py": "p"}
    found = find([_tree(tmp_path, names)], None, ["tenant:*"])
    assert [(e.shown, e.document_id, e.uri, e.readers) for e in found.entries] == [
        ("a/c.PDF", "a-c.PDF", "a/c.PDF", ("tenant:*",)),
        ("b.md", "b.md", "b.md", ("tenant:*",)),
    ]


def test_a_file_that_is_named_is_sent_whatever_its_extension(tmp_path: Path) -> None:
    _tree(tmp_path, {"README": "x"})
    assert [e.document_id for e in find([tmp_path / "README"], None, None).entries] == ["README"]


def test_a_manifest_describes_its_folder_and_is_never_widened(tmp_path: Path) -> None:
    manifest = """
        [[documents]]
        path = "pay.md"
        document_id = "pay"
        title = "Pay"
        readers = ["group:hr"]
        [documents.metadata]
        year = 2025
        tags = ["a", "b"]
        [[documents]]
        path = "gone.md"
    """
    found = find([_tree(tmp_path, {"manifest.toml": manifest, "pay.md": "x", "other.md": "y"})], None, ["tenant:*"])
    by_name = {entry.shown: entry for entry in found.entries}
    assert by_name["pay.md"].readers == ("group:hr",)
    assert by_name["pay.md"].metadata == {"year": 2025, "tags": ("a", "b")}
    assert by_name["other.md"].readers == ("tenant:*",)
    assert by_name["gone.md"].problem is not None
    assert by_name["gone.md"].problem[0] == "UNREADABLE"
    assert found.unlisted == ("other.md",)
    alone = find([], tmp_path / "manifest.toml", None)
    assert [(entry.shown, entry.document_id) for entry in alone.entries] == [("pay.md", "pay"), ("gone.md", "gone.md")]


def test_every_problem_of_a_manifest_is_named(tmp_path: Path) -> None:
    manifest = """
        [[documents]]
        path = "../secret.md"
        [[documents]]
        path = "a.md"
        readers = ["everyone"]
        colour = "red"
    """
    with pytest.raises(CliError) as caught:
        find([_tree(tmp_path, {"manifest.toml": manifest})], None, None)
    told = "\n".join(caught.value.lines())
    assert caught.value.code is ExitCode.USAGE
    for part in ("leads out of", "reader 'everyone'", "no such key: colour"):
        assert part in told


def test_files_that_cannot_be_sent_are_told_before_they_are(tmp_path: Path) -> None:
    _tree(tmp_path, {"empty.md": "", "a/b.md": "1", "a-b.md": "2"})
    with (tmp_path / "large.pdf").open("wb") as file:
        file.truncate(32 * 1024 * 1024 + 1)
    problems = {e.shown: e.problem[0] for e in find([tmp_path], None, None).entries if e.problem}
    assert problems == {"empty.md": "EMPTY", "a-b.md": "DUPLICATE_ID", "large.pdf": "TOO_LARGE"}


def _problems(found: Found) -> dict[str, str]:
    return {entry.shown: entry.problem[0] if entry.problem else "" for entry in found.entries}


def test_links_are_skipped_and_counted_and_never_lead_out_of_a_folder(tmp_path: Path) -> None:
    """(F3)."""
    folder = _tree(tmp_path / "in", {"a.md": "a", "sub/b.md": "b"})
    _tree(tmp_path / "out", {"secret.md": "s"})
    for name, to in {
        "inside.md": "sub/b.md",
        "out.md": "../out/secret.md",
        "absolute.md": str(tmp_path / "out" / "secret.md"),
        "through.md": "sub/../../out/secret.md",
        "gone.md": "nowhere.md",
        "loop.md": "loop.md",
        "up": "..",
        "again": "sub",
        "twice.md": "out.md",
    }.items():
        (folder / name).symlink_to(to)
    os.link(folder / "a.md", folder / "hard.md")
    found = find([folder], None, None)
    assert _problems(found) == {"a.md": "", "hard.md": "", "sub/b.md": ""}
    assert found.skipped == {"link": 7, "link to a folder": 2}
    found = find([folder], None, None, follow_links=True)
    assert _problems(found) == {"a.md": "", "hard.md": "", "inside.md": "", "sub/b.md": ""}
    assert found.skipped == {"link": 6, "link to a folder": 2}
    contents = {entry.shown: ingest._read(entry) for entry in found.entries}
    assert {name: read.content for name, read in contents.items() if not isinstance(read, Result)} == {
        "a.md": b"a", "hard.md": b"a", "inside.md": b"b", "sub/b.md": b"b",
    }  # fmt: skip
    # A folder or a file that is named itself may be a link.
    (tmp_path / "linked").symlink_to(folder)
    assert _problems(find([tmp_path / "linked"], None, None)) == {"a.md": "", "hard.md": "", "sub/b.md": ""}
    (entry,) = find([folder / "out.md"], None, None).entries
    read = ingest._read(entry)
    assert not isinstance(read, Result)
    assert read.content == b"s"


def test_a_manifest_leads_over_no_link_either(tmp_path: Path) -> None:
    """(F3)."""
    manifest = "".join(
        f'[[documents]]\npath = "{name}"\n' for name in ("a.md", "l.md", "o.md", "f/b.md", "u/secret.md")
    )
    folder = _tree(tmp_path / "in", {"a.md": "a", "sub/b.md": "b", "manifest.toml": manifest})
    _tree(tmp_path / "out", {"secret.md": "s"})
    for name, to in {"l.md": "a.md", "o.md": "../out/secret.md", "f": "sub", "u": "../out"}.items():
        (folder / name).symlink_to(to)
    expected = {"a.md": "", "f/b.md": "LINK", "l.md": "LINK", "o.md": "LINK", "sub/b.md": "", "u/secret.md": "LINK"}
    assert _problems(find([folder], None, None)) == expected
    assert _problems(find([folder], None, None, follow_links=True)) == {**expected, "l.md": "", "f/b.md": ""}
    del expected["sub/b.md"]
    assert _problems(find([], folder / "manifest.toml", None)) == expected


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_becomes_a_link_before_it_is_read_is_not_followed(what: str, follow_links: bool, tmp_path: Path) -> None:
    """(F3)."""
    folder = _tree(tmp_path / "in", {"sub/secret.md": "harmless"})
    _tree(tmp_path / "out", {"secret.md": "s"})
    (entry,) = find([folder], None, None, follow_links=follow_links).entries
    if what == "file":
        (folder / "sub" / "secret.md").unlink()
        (folder / "sub" / "secret.md").symlink_to(tmp_path / "out" / "secret.md")
    else:
        (folder / "sub").rename(folder / "was")
        (folder / "sub").symlink_to(tmp_path / "out")
    result = ingest._read(entry)
    assert isinstance(result, Result)
    assert result.reason == "UNREADABLE"


def test_what_is_no_regular_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "manifest.toml").write_text('[[documents]]\npath = "folder.md"\n')
    found = {e.shown: e.problem for e in find([tmp_path, Path("/dev/null")], None, None).entries}
    assert {problem[0] for problem in found.values() if problem} == {"NOT_A_FILE"}
    assert {name: problem[1].split(";")[0] for name, problem in found.items() if problem} == {
        "pipe.md": "It is no regular file but a pipe",
        "folder.md": "It is no regular file but a directory.",
        "null": "It is no regular file but a device.",
    }


def test_a_file_that_is_another_one_when_it_is_read_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    (entry,) = find([tmp_path / "a.md"], None, None).entries
    (tmp_path / "a.md").unlink()
    os.mkfifo(tmp_path / "a.md")
    result = ingest._read(entry)
    assert isinstance(result, Result)
    assert result.reason == "NOT_A_FILE"
    (tmp_path / "a.md").unlink()
    with (tmp_path / "a.md").open("wb") as file:
        file.truncate(32 * 1024 * 1024 + 1)
    result = ingest._read(entry)
    assert isinstance(result, Result)
    assert result.reason == "TOO_LARGE"


def test_every_extension_that_folders_give_is_a_format_that_ingestion_knows() -> None:
    from services.ingestion import media_type

    assert frozenset(media_type._EXTENSIONS) == EXTENSIONS


def test_starts_are_spaced_out_up_to_a_limit() -> None:
    backoff = Backoff(first=0.25, longest=15.0)
    waits = [backoff.wait(n) for n in (1, 2, 3, 20, 5000)]
    assert 0.2 <= waits[0] <= 0.25
    assert 0.4 <= waits[1] <= 0.5
    assert all(12.0 <= wait <= 15.0 for wait in waits[3:])


def test_progress_lines_come_now_and_then() -> None:
    now = 0.0
    out = io.StringIO()
    lines = Lines(Console(file=out, width=20), "Ingesting", "document", clock=lambda: now)
    lines.begin(100)
    for done in range(100):
        now = done * 0.5
        lines.advance(1)
    lines.end()
    shown = out.getvalue().splitlines()
    assert shown[0] == "Ingesting: 10/100 documents, 2.2/s, about 40 s left"
    assert len(shown) == 9


def test_secrets_do_not_show_in_effective_settings() -> None:
    tree = {
        "embedding": {"api_key": "hunter2", "url": "https://bob:pw@host/x", "first_token_timeout": 5},
        "tokens": {"signing_secret": "s3", "max_tokens": 7},
        "endpoints": [{"name": "a", "api_key": "k"}],
        "empty": {"password": ""},
    }
    flat = dict(doctor.flatten(tree))
    assert flat["embedding.api_key"] == "********"
    assert flat["embedding.url"] == "https://bob:********@host/x"
    assert flat["embedding.first_token_timeout"] == "5"
    assert flat["tokens.max_tokens"] == "7"
    assert flat["endpoints.0.api_key"] == "********"
    assert not {"hunter2", "s3", "pw", "k"} & set(flat.values())


def test_the_holder_of_a_lock_is_found(tmp_path: Path) -> None:
    lock = tmp_path / "store.lock"
    lock.touch()
    inode = lock.stat().st_ino
    table = tmp_path / "locks"
    table.write_text(
        f"1: POSIX  ADVISORY  WRITE 1 08:02:{inode} 0 EOF\n"
        f"2: FLOCK  ADVISORY  WRITE {os.getpid()} 08:02:{inode} 0 EOF\n"
        "3: FLOCK  ADVISORY  WRITE 7 08:02:1 0 EOF\n"
    )
    assert [pid for pid, _ in doctor.lock_holders(lock, table)] == [os.getpid()]
    assert list(doctor.lock_holders(tmp_path / "none", table)) == []


def test_findings_about_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python_version((3, 10, 4)).state == doctor.FAIL
    assert doctor.python_version((3, 12, 0)).state == doctor.OK
    (tmp_path / "file").touch()
    assert next(doctor.data_directory(tmp_path / "file")).state == doctor.FAIL
    assert next(doctor.data_directory(tmp_path / "new" / "folder")).state == doctor.OK
    assert doctor.traces().found.startswith("off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    assert (doctor.traces().state, "http/json" in doctor.traces().found) == (doctor.FAIL, True)


def test_the_doctor_breaks_no_path(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "/" + "a-long-part/" * 12 + "models"
    finding = doctor.Finding(doctor.WARN, "Model", f"two files are verified in {path}", f"look into {path} again")
    doctor._show_tables(Screen(Format.TABLE), [finding], {"models_dir": path, "data_dir": "/d", "zone": "a b " * 30})
    lines = capsys.readouterr().out.splitlines()
    assert sum(path in line for line in lines) == 3
    assert max(len(line) for line in lines if path not in line) <= 60
    assert lines[0] == "WARN  Model  two files are verified in"


def test_every_service_has_settings_and_an_assembly() -> None:
    for name in services.NAMES:
        assert issubclass(services.settings_class(name), Settings)
        assert callable(services.assembly(name))
    assert sorted(name for tier in services.TIERS for name in tier) == sorted(services.NAMES)


def test_the_demo_takes_every_source_restricted_document_and_format() -> None:
    entries, questions = load_examples(_EXAMPLES)
    part = a_part(entries, questions)
    taken = {entry.document_id for entry in part}
    assert len(part) == 16
    assert [question.answerable for question in questions].count(False) == 1
    assert {source for question in questions for source in question.sources} <= taken
    assert {entry.document_id for entry in entries if is_restricted(entry)} <= taken
    assert {entry.path.suffix for entry in part} == {".md", ".html", ".pdf", ".docx", ".txt"}


def test_a_demo_without_its_corpus_says_where_it_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="--examples"):
        load_examples(tmp_path)
