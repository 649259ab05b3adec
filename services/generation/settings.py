"""The generation service's knobs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from services.runtime.settings import WORKERS_DESCRIPTION, Options, Settings


class EndpointOptions(Options):
    """One LLM endpoint."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]{0,62}$", description="What answers and logs call it.")
    url: str = Field(
        pattern=r"^(extractive:|https?://\S+)$",
        description="extractive: quotes the sources, no model needed; http(s)://HOST/v1: an OpenAI-compatible server.",
    )
    model: str = Field("", description="The model that an OpenAI-compatible server is asked for.")
    api_key: SecretStr | None = Field(None, description="Its key, if it wants one.")

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.url != "extractive:" and not self.model:
            raise ValueError(f"the endpoint {self.name} needs a model")
        return self


class GenerationOptions(Options):
    """How answers are written."""

    llm_endpoints: tuple[EndpointOptions, ...] = Field(
        (EndpointOptions(name="extractive", url="extractive:"),),
        min_length=1,
        description="Tried in this order until one has written an answer.",
    )
    first_token_timeout: float = Field(20.0, gt=0, le=600, description="Seconds until an endpoint's first words.")
    answer_timeout: float = Field(60.0, gt=0, le=3600, description="Seconds until an endpoint's last words.")
    timeout: float = Field(120.0, gt=0, le=3600, description="Seconds for a call whose caller sets no deadline.")
    workers: int = Field(1, ge=1, le=64, description=WORKERS_DESCRIPTION)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [endpoint.name for endpoint in self.llm_endpoints]
        if len(set(names)) != len(names):
            raise ValueError("llm_endpoints need distinct names")
        return self


class GenerationSettings(Settings):
    """Section ``generation``."""

    generation: GenerationOptions = GenerationOptions()
