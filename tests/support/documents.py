"""Commands in Markdown documents: a document whose commands do not work is a defect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which it begins."""

    language: str
    body: str
    line: int


def blocks(path: Path, *languages: str) -> list[Block]:
    """The document's fenced blocks in those languages, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(match["language"], match["body"], text.count("\n", 0, match.start()) + 2)
        for match in _FENCE.finditer(text)
        if match["language"] in languages
    ]


def prompted(block: Block) -> list[str]:
    """The commands behind ``$ `` prompts in a console block; lines that end in a backslash go on."""
    commands: list[str] = []
    for line in block.body.splitlines():
        if commands and commands[-1].endswith("\\"):
            commands[-1] += f"\n{line}"
        elif line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
    return commands
