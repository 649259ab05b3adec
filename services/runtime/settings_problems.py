"""What is wrong with settings, in words for the person who wrote them: where it was set, and what is allowed there.

A value is never repeated, because it may be a secret.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

# What pydantic says of a value in whose place nothing of its kind may stand.
_OWN_WORDS = frozenset({"value_error", "assertion_error"})
_UNKNOWN = "extra_forbidden"
_MISSING = "missing"
_PATTERN = "string_pattern_mismatch"
_TOO_SHORT = "too_short"


class Origin:
    """Where settings come from: the environment's variables that begin with ``prefix``, and what a file holds."""

    def __init__(
        self, prefix: str, environ: Mapping[str, str], file: Path | None, from_file: Mapping[str, Any]
    ) -> None:
        self._prefix = prefix
        # Names count whatever their case is.
        self._variables = {name.upper(): name for name in environ if name.upper().startswith(prefix)}
        self._environ = environ
        self._file = file
        self._from_file = from_file

    def of(self, path: Sequence[str | int]) -> str:
        """Where the setting at ``path`` was set, or left out, as a person would look for it."""
        if (name := self._variables.get(self._variable(path))) is not None:
            return name
        in_file = self._file is not None and _reached(self._from_file, path)
        # A variable may set a whole section at once, as JSON; what is missing there is so because of what is there.
        for known in (path,) if in_file else (path, path[:-1]):
            for length in range(len(known), 0, -1):
                name = self._variables.get(self._variable(path[:length]))
                if name is not None and _reached(_json(self._environ[name]), known[length:]):
                    return f"{name}: {_dotted(path[length:])}"
        below = [name for upper, name in self._variables.items() if upper.startswith(self._variable(path) + "__")]
        if in_file or (self._file is not None and not below):
            below.append(f"{self._file}: {_dotted(path)}")
        return ", ".join(below) or self._variable(path)

    def unparsable(self, error: SettingsError) -> list[str]:
        """The variables whose value had to be JSON and is not."""
        # The library names only the section; the value that is not JSON tells which variable it was.
        value = getattr(error.__cause__, "doc", None)
        names = [name for name in self._variables.values() if self._environ[name] == value]
        return [
            f"{name}: a section or a list in the environment is written as JSON, such as "
            '{"name": "value"} or ["one", "two"]'
            for name in names or [f"{self._prefix}*"]
        ]

    def _variable(self, path: Sequence[str | int]) -> str:
        return self._prefix + "__".join(map(str, path)).upper()


def problems(error: ValidationError, settings: type[BaseModel], origin: Origin) -> Iterator[str]:
    """One line for each problem: the place, and what is allowed."""
    found = error.errors(include_url=False, include_input=False)
    for problem in found:
        path = problem["loc"]
        # Entries that are wrong are not counted, so a list of nothing else is too short as well: that helps nobody.
        if problem["type"] == _TOO_SHORT and any(_inside(other["loc"], path) for other in found):
            continue
        yield f"{origin.of(path)}: {_meaning(problem, settings, path)}"


def _meaning(problem: Any, settings: type[BaseModel], path: Sequence[str | int]) -> str:
    kind = problem["type"]
    if kind in _OWN_WORDS:
        return str(problem["ctx"]["error"])
    if kind == _UNKNOWN:
        section = _section(settings, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), section.model_fields, n=1) if section is not None else []
        return "no such setting" + (f"; did you mean {near[0]}?" if near else "")
    found = _find(settings, path)
    if kind == _PATTERN:
        forms = found.description.rstrip(".") if found is not None and found.description else ""
        return f"has none of the forms that are allowed{f': {forms}' if forms else ''}"
    if found is None:
        said = str(problem["msg"])
        return said[:1].lower() + said[1:].replace("Input should", "must")
    schema = TypeAdapter(found.rebuild_annotation()).json_schema()
    return f"{'is missing: it ' if kind == _MISSING else ''}must be {_allowed(schema)}"


def _find(settings: type[BaseModel], path: Sequence[str | int]) -> FieldInfo | None:
    """The declaration of the setting at ``path``; inside a list or a table, that of its entries."""
    section: type[BaseModel] | None = settings
    field: FieldInfo | None = None
    for part in path:
        if section is not None and part in section.model_fields:
            field = section.model_fields[str(part)]
        elif field is not None and section is None and (inner := _entries(field.annotation)) is not None:
            field = FieldInfo.from_annotation(inner)
        else:
            return None
        section = _as_section(field.annotation)
    return field


def _section(settings: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    if not path:
        return settings
    field = _find(settings, path)
    return None if field is None else _as_section(field.annotation)


def _as_section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _entries(annotation: Any) -> Any:
    """The type of the entries of ``tuple[X, ...]``, ``list[X]`` or ``dict[str, X]``."""
    given = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return given[-1] if given else None


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a value with this JSON schema may be."""
    if "anyOf" in schema:
        return _or([_allowed(each) for each in schema["anyOf"] if each.get("type") != "null"])
    if "enum" in schema:
        return _or([str(each) for each in schema["enum"]])
    match schema.get("type"):
        case "integer":
            return "a whole number" + _range(schema)
        case "number":
            return "a number" + _range(schema)
        case "boolean":
            return "true or false"
        case "array":
            least = schema.get("minItems", 0)
            return f"a list of at least {least} {'entry' if least == 1 else 'entries'}" if least else "a list"
        case "string":
            what = "a path" if schema.get("format") == "path" else "a text"
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            if most is not None:
                return f"{what} of {f'{least} to' if least else 'at most'} {most} characters"
            return f"{what} that is not empty" if least == 1 else what
        case _:
            return "a section with settings of its own"


def _range(schema: Mapping[str, Any]) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    told = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    return f", {' and '.join(told)}" if told else ""


def _or(choices: Sequence[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def _inside(path: Sequence[str | int], section: Sequence[str | int]) -> bool:
    return len(path) > len(section) and tuple(path[: len(section)]) == tuple(section)


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _reached(tree: Any, path: Sequence[str | int]) -> bool:
    """Whether ``tree`` has something at ``path``."""
    for part in path:
        try:
            tree = tree[part]
        except (LookupError, TypeError):
            return False
    return True


def _dotted(path: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
