"""The parts that configured endpoints play."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from services.generation.settings import EndpointOptions, GenerationOptions
from services.resilience.endpoints import Role
from tests.check_endpoints_page import PAGE

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


def test_the_page_shows_settings_that_are_taken() -> None:
    [shown] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    configured = GenerationOptions.model_validate(tomllib.loads(shown)["generation"])
    reasoner = configured.llm_endpoints[1]
    assert (reasoner.max_tokens_parameter, reasoner.omit_parameters) == ("max_completion_tokens", ("temperature",))
    assert (reasoner.extra_parameters, reasoner.thinking) == ({"reasoning_effort": "low"}, "opened")
    assert configured.llm_endpoints[0].max_tokens_parameter == "max_tokens"
    named = set(re.findall(r"`([a-z_]+)`", PAGE.read_text()))
    assert set(EndpointOptions.model_fields) <= named


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"extra_parameters": {"messages": []}}, "extra_parameters of the endpoint llm cannot set messages"),
        ({"extra_parameters": {"n": 2, "model": "x"}}, "extra_parameters of the endpoint llm cannot set model, n"),
        ({"omit_parameters": ["model"]}, "omit_parameters of the endpoint llm cannot leave out model"),
        ({"omit_parameters": ["two words"]}, "omit_parameters"),
        ({"max_tokens_parameter": ""}, "max_tokens_parameter"),
        ({"thinking": "never"}, "thinking"),
    ],
)
def test_parameters_that_cannot_be_sent_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EndpointOptions.model_validate(LLM | more)
