"""``groundwire``: the command line's entry point."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from cli.commands import ask, audit, backup, certs, collections, delete, ingest, inspect, keys, serve, token
from cli.errors import EXIT_CODES, CliError, ExitCode, usage
from cli.garbage import collect_rarely
from cli.help import example, show_plainly
from cli.options import Globals
from cli.streams import on_terminal, replace_what_cannot_be_shown
from services.corpus.cleaning import cleaned

app = typer.Typer(
    name="groundwire",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)

_START, _USE, _LOOK = "Run", "Use", "Look after"


app.command("demo", rich_help_panel=_START, epilog=example("groundwire demo"))(serve.demo)
app.command("up", rich_help_panel=_START, epilog=example("groundwire up --data-dir ./data"))(serve.up)
app.command("serve", rich_help_panel=_START, epilog=example("groundwire serve query --listen 127.0.0.1:6000"))(
    serve.serve
)
app.command("_mesh", hidden=True)(serve.mesh)
app.command(
    "ingest",
    rich_help_panel=_USE,
    epilog=example(
        "groundwire ingest handbook/ --readers 'tenant:*'",
        "groundwire collections create hr",
        "groundwire ingest handbook/ --readers group:hr --collection hr",
    ),
)(ingest.ingest)
app.add_typer(
    collections.app,
    name="collections",
    rich_help_panel=_USE,
    epilog=example(
        "groundwire collections create hr --readers group:hr",
        "groundwire collections list",
        "groundwire collections show hr --output json | jq .document_count",
        "groundwire collections update hr --readers group:hr,user:ann",
    ),
)
app.command(
    "ask",
    rich_help_panel=_USE,
    epilog=example(
        'groundwire ask "How long is parental leave?" --filter status=current',
        'groundwire ask "How long is parental leave?" --output json | jq -r .answer',
    ),
)(ask.ask)
app.command("search", rich_help_panel=_USE, epilog=example('groundwire search "parental leave" --top-k 5'))(ask.search)
app.command(
    "delete",
    rich_help_panel=_USE,
    epilog=example(
        "groundwire delete travel-policy.pdf --collection hr",
        "groundwire delete travel-policy.pdf --yes --output json | jq .complete_time",
    ),
)(delete.delete)
app.command(
    "token",
    rich_help_panel=_LOOK,
    epilog=example(
        "export GROUNDWIRE_TOKEN=$(groundwire token)",
        "export GROUNDWIRE_TOKEN=$(groundwire token -s alice -g hr -r reader)",
    ),
)(token.token)
app.command(
    "revoke",
    rich_help_panel=_LOOK,
    epilog=example("groundwire revoke --subject alice", 'echo "$GROUNDWIRE_TOKEN" | groundwire revoke'),
)(token.revoke)
app.add_typer(
    keys.app,
    name="keys",
    rich_help_panel=_LOOK,
    epilog=example("groundwire keys list", "groundwire keys rotate acme", "groundwire keys shred acme"),
)
app.command(
    "certs",
    rich_help_panel=_LOOK,
    epilog=example(
        "groundwire certs ./certs > groundwire.toml",
        "groundwire --config groundwire.toml up",
        "groundwire certs ./certs --host rag.example.org",
    ),
)(certs.certs)
app.add_typer(
    backup.app,
    name="backup",
    rich_help_panel=_LOOK,
    epilog=example(
        "groundwire backup /backups/monday",
        "groundwire backup --keys /elsewhere/keys-monday",
        "groundwire backup verify /backups/monday",
    ),
)
app.command(
    "restore",
    rich_help_panel=_LOOK,
    epilog=example("groundwire restore /backups/monday --keys /elsewhere/keys-monday --data-dir ./data"),
)(backup.restore)
app.add_typer(
    audit.app,
    name="audit",
    rich_help_panel=_LOOK,
    epilog=example(
        "groundwire audit list --denied --since 2026-01-01T00:00:00Z",
        "groundwire audit list --limit 1000 --output json | jq '.[].principal'",
        "groundwire audit export > audit.jsonl",
    ),
)
app.command("status", rich_help_panel=_LOOK, epilog=example("groundwire status", "groundwire status --watch"))(
    inspect.status
)
app.command("doctor", rich_help_panel=_LOOK, epilog=example("groundwire doctor --output json"))(inspect.doctor)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - only here

    try:
        found = version("groundwire")
    except PackageNotFoundError:
        # Run from a checkout that is not installed.
        from services.runtime.process import VERSION as found  # noqa: PLC0415, N811
    print(f"groundwire {found}")
    raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings (TOML); default: $GROUNDWIRE_CONFIG.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Grounded answers, over the wire: a self-hosted RAG backend as a gRPC service mesh.

    Start with [bold]groundwire demo[/bold], or [bold]groundwire up[/bold] and then [bold]groundwire ingest[/bold].
    """
    if config is not None:
        # Whatever this command reads or starts has the same settings.
        os.environ["GROUNDWIRE_CONFIG"] = str(config.absolute())
    context.obj = Globals(config=config.absolute() if config else None, debug=debug)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # gRPC's own log lines on stderr say nothing that our errors do not say better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    debug = "--debug" in given
    replace_what_cannot_be_shown()
    before = os.environ.get("GROUNDWIRE_CONFIG")
    try:
        code = show_plainly(get_command(app))(given, prog_name="groundwire", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader has had enough, such as `head`. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        if debug:
            raise
        return _report(error)
    finally:
        # `start` sets it for this command alone.
        os.environ.pop("GROUNDWIRE_CONFIG", None)
        if before is not None:
            os.environ["GROUNDWIRE_CONFIG"] = before


def _report(error: Exception) -> int:
    from services.runtime.settings import ConfigurationError  # noqa: PLC0415 - pydantic takes a while

    if isinstance(error, OSError):
        from cli.file_errors import explain  # noqa: PLC0415 - pydantic takes a while

        error = explain(error) or error
    elif isinstance(error, ConfigurationError):
        first, *more = str(error).splitlines()
        error = usage(first, *more)
    if isinstance(error, CliError):
        lines, code = error.lines(), int(error.code)
    elif callable(getattr(error, "format_message", None)):
        # Typer's own errors, whose class depends on its version.
        lines, code = _usage_lines(error), int(getattr(error, "exit_code", ExitCode.USAGE))
    elif isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        # No message can carry it; output is never the reason, because streams replace what they lack.
        lines, code = [f"error: {error.object!a} is not text in UTF-8"], int(ExitCode.USAGE)
    else:
        message = f"something unexpected went wrong ({type(error).__name__}: {error})"
        lines = [f"error: {message}; run the command again with `groundwire --debug …` and report what it shows"]
        code = int(ExitCode.FAILED)
    print("\n".join(on_terminal(sys.stderr, map(cleaned, lines))), file=sys.stderr)
    return code


def _usage_lines(error: Exception) -> list[str]:
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "format_message")())  # noqa: B009 - typed nowhere
    if type(error).__name__ == "NoArgsIsHelpError":
        return [message]
    path = context.command_path if context is not None else "groundwire"
    return [f"error: {message.rstrip('.')}; `{path} --help` shows what it takes"]


def run() -> int:
    """Run one command as a process of its own, and return its exit code."""
    collect_rarely()
    # Whatever this process or its children make is for their owner alone, unless they say otherwise.
    os.umask(0o077)
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())
