"""The parts that configured endpoints play."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.generation.settings import EndpointOptions, GenerationOptions
from services.resilience.endpoints import Role

EXTRACTIVE = {"name": "extractive", "url": "extractive:"}
LLM = {"name": "llm", "url": "http://127.0.0.1:8080/v1", "model": "m"}


def options(*endpoints: dict[str, str]) -> GenerationOptions:
    return GenerationOptions(llm_endpoints=tuple(EndpointOptions.model_validate(each) for each in endpoints))


@pytest.mark.parametrize(
    ("endpoints", "roles"),
    [
        ([EXTRACTIVE], {"extractive": Role.PRIMARY}),
        ([LLM, EXTRACTIVE], {"llm": Role.PRIMARY, "extractive": Role.BACKUP}),
        ([EXTRACTIVE, LLM], {"extractive": Role.BACKUP, "llm": Role.PRIMARY}),
        ([LLM, EXTRACTIVE | {"role": "primary"}], {"llm": Role.PRIMARY, "extractive": Role.PRIMARY}),
        (
            [LLM | {"role": "backup"}, EXTRACTIVE | {"role": "primary"}],
            {"llm": Role.BACKUP, "extractive": Role.PRIMARY},
        ),
    ],
)
def test_extractive_is_a_backup_beside_others_unless_it_is_said_to_be_primary(
    endpoints: list[dict[str, str]], roles: dict[str, Role]
) -> None:
    assert options(*endpoints).roles() == roles


@pytest.mark.parametrize("endpoints", [[LLM | {"role": "backup"}], [LLM | {"role": "backup"}, EXTRACTIVE]])
def test_somebody_must_be_primary(endpoints: list[dict[str, str]]) -> None:
    with pytest.raises(ValidationError, match="need a primary"):
        options(*endpoints)


def test_how_questions_are_shared_is_one_of_two_words() -> None:
    assert GenerationOptions().load_balancer == "least_loaded"
    with pytest.raises(ValidationError):
        GenerationOptions.model_validate({"load_balancer": "random"})
