"""Compare the stubs under generated/ with what protos/ generate; with --write, replace them.

``make proto-check`` and ``make proto`` call this, so that both generate in the same way.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(protos: Path, target: Path) -> None:
    """Write the stubs of every contract in ``protos`` into the directory ``target``."""
    tools = Path(sys.executable).parent
    files = sorted(str(file.relative_to(protos)) for file in protos.rglob("*.proto"))
    target.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", "-I", "."),
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
        *files,
    ]
    subprocess.run(command, cwd=protos, check=True)


def differences(expected: Path, actual: Path) -> list[str]:
    """What tells ``actual`` from ``expected``, one line for each file, sorted by name."""
    names = {side: set(_files(side)) for side in (expected, actual)}
    lines = dict.fromkeys(names[expected] - names[actual], "is missing")
    lines |= dict.fromkeys(names[actual] - names[expected], "is not generated from any contract")
    for name in names[expected] & names[actual]:
        if not filecmp.cmp(expected / name, actual / name, shallow=False):
            lines[name] = "differs"
    return [f"{name}: {lines[name]}" for name in sorted(lines)]


def _files(directory: Path) -> list[str]:
    return [
        str(file.relative_to(directory))
        for file in directory.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Run with command line ``arguments``; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare generated/ with what protos/ generate.")
    parser.add_argument("--write", action="store_true", help="replace the stubs instead of comparing them")
    write = parser.parse_args(arguments).write
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(root / "protos", fresh)
        kept = root / "generated" / "groundwire"
        if write:
            # Only once everything was generated: a contract with an error must not leave a project without stubs.
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(fresh / "groundwire", kept)
            return 0
        found = differences(fresh / "groundwire", kept)
    for line in found:
        print(f"generated/groundwire/{line}")  # noqa: T201 - this is a command
    if found:
        print("run `make proto`")  # noqa: T201 - this is a command
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
