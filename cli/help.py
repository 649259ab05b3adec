"""Help as commands show it: a flag takes nothing, and an argument's name says what it is."""

from __future__ import annotations

from typing import Any


def example(*lines: str) -> str:
    """The end of a command's help: command lines that work."""
    return "\n\n".join(f"[dim]$[/dim] {line}" for line in lines)


def show_plainly(command: Any) -> Any:
    """Leave types out where they say nothing (``<bool>`` behind a flag), in ``command`` and those below it.

    Typer has no setting for that, and its classes no name that they are promised to keep: hence the types.
    """
    params_of = command.get_params

    def get_params(context: Any) -> list[Any]:
        params: list[Any] = params_of(context)
        for param in params:
            if getattr(param, "is_bool_flag", False) or param.param_type_name == "argument":
                param.display_type_rich = _no_type
        return params

    command.get_params = get_params
    for below in getattr(command, "commands", {}).values():
        show_plainly(below)
    return command


def _no_type(ctx: Any) -> None:  # noqa: ARG001 - given by its name
    return None
