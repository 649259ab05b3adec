"""The generation service's knobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from services.resilience.endpoints import Role
from services.runtime.options import WORKERS_DESCRIPTION, Options
from services.runtime.settings import Settings

EXTRACTIVE = "extractive:"
_PARAMETER = r"^[A-Za-z_][A-Za-z0-9_.\-]{0,63}$"
_Parameter = Annotated[str, Field(pattern=_PARAMETER, description="1 to 64 of A-Z a-z 0-9 _ . -")]
_NEEDED = frozenset({"model", "messages"})
_TAKEN = _NEEDED | {"n"}  # one answer is read


class EndpointOptions(Options):
    """One LLM endpoint."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.\-]{0,62}$", description="What answers and logs call it: 1 to 63 of a-z 0-9 . -"
    )
    url: str = Field(
        pattern=r"^(extractive:|https?://\S+)$",
        description="extractive: quotes the sources, no model needed; http(s)://HOST/v1: an OpenAI-compatible server.",
    )
    model: str = Field("", description="The model that an OpenAI-compatible server is asked for.")
    api_key: SecretStr | None = Field(None, description="Its key, if it wants one.")
    max_tokens_parameter: str = Field(
        "max_tokens",
        pattern=_PARAMETER,
        description='What the limit of an answer is sent as: 1 to 64 of A-Z a-z 0-9 _ . -, such as "max_completion_tokens".',
    )
    omit_parameters: tuple[_Parameter, ...] = Field(
        (), description="Parameters that are not sent: temperature, stream_options, stream, or the limit itself."
    )
    extra_parameters: dict[_Parameter, Any] = Field(
        default_factory=dict, description="Parameters that are sent as they are, in place of the usual ones."
    )
    thinking: Literal["auto", "opened"] = Field(
        "auto",
        description="opened: the model's chat template opens its thoughts, so nothing is shown before they end; "
        "auto: found out by its first answer.",
    )
    role: Literal["primary", "backup"] | None = Field(
        None,
        description="Primaries share the questions, backups answer while no primary can; unset: primary, but extractive: "
        "beside others is a backup.",
    )

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.url != EXTRACTIVE and not self.model:
            raise ValueError(f"the endpoint {self.name} needs a model")
        if taken := sorted(_TAKEN.intersection(self.extra_parameters)):
            raise ValueError(f"extra_parameters of the endpoint {self.name} cannot set {', '.join(taken)}")
        if needed := sorted(_NEEDED.intersection(self.omit_parameters)):
            raise ValueError(f"omit_parameters of the endpoint {self.name} cannot leave out {', '.join(needed)}")
        return self


class GenerationOptions(Options):
    """How answers are written."""

    llm_endpoints: tuple[EndpointOptions, ...] = Field(
        (EndpointOptions(name="extractive", url=EXTRACTIVE),),
        min_length=1,
        description="Tried until one has written an answer: primaries, then backups in this order.",
    )
    load_balancer: Literal["least_loaded", "round_robin"] = Field(
        "least_loaded", description="How primaries share the questions: fewest in flight, or by turns."
    )
    first_token_timeout: float = Field(20.0, gt=0, le=600, description="Seconds until an endpoint's first words.")
    answer_timeout: float = Field(60.0, gt=0, le=3600, description="Seconds until an endpoint's last words.")
    timeout: float = Field(120.0, gt=0, le=3600, description="Seconds for a call whose caller sets no deadline.")
    max_passages_chars: int = Field(
        256 * 1024,
        ge=32 * 1024,
        le=4 * 1024 * 1024,
        description="Characters that the titles and texts of a call's passages may have together; above 50 * ingestion.chunk_max_chars.",
    )
    callers_may_bring_passages: bool = Field(
        False,
        description="Whether callers may have answers written from passages of their own; else only services may.",
    )
    workers: int = Field(1, ge=1, le=64, description=WORKERS_DESCRIPTION)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [endpoint.name for endpoint in self.llm_endpoints]
        if len(set(names)) != len(names):
            raise ValueError("llm_endpoints need distinct names")
        if Role.PRIMARY not in self.roles().values():
            raise ValueError("llm_endpoints need a primary")
        return self

    def roles(self) -> dict[str, Role]:
        """The part that each endpoint plays, by its name."""
        only_extractive = all(endpoint.url == EXTRACTIVE for endpoint in self.llm_endpoints)
        return {
            endpoint.name: Role(endpoint.role)
            if endpoint.role
            else (Role.BACKUP if endpoint.url == EXTRACTIVE and not only_extractive else Role.PRIMARY)
            for endpoint in self.llm_endpoints
        }


class GenerationSettings(Settings):
    """Section ``generation``."""

    generation: GenerationOptions = GenerationOptions()
