"""The generation service's composition root."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc as rpc
from services.embedding.ports import CrossEncoder
from services.embedding.weights import MS_MARCO_MINILM_L12
from services.generation.adapters.extractive import ExtractiveEndpoint
from services.generation.balancing import Balancing, BalancingPolicy
from services.generation.endpoint import AttemptLimits
from services.generation.generation import Generator
from services.generation.ports import AnswerEndpoint
from services.generation.servicer import GenerationServicer
from services.generation.settings import EXTRACTIVE, EndpointOptions, GenerationOptions, GenerationSettings
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Endpoint
from services.resilience.pool import PoolEvent
from services.runtime.identity import current_caller
from services.runtime.process import Process
from services.runtime.server import Service


async def assemble(
    settings: GenerationSettings,
    process: Process,
    *,
    endpoints: Sequence[AnswerEndpoint] | None = None,
) -> Service:
    """Wire generation to the endpoints that the settings name (or take ``endpoints``, and close them)."""
    options = settings.generation
    if endpoints is None:
        cross_encoder = await process.cross_encoder(settings)
        endpoints = [_endpoint(endpoint, cross_encoder, options) for endpoint in options.llm_endpoints]
    limits = AttemptLimits(first_token=options.first_token_timeout, total=options.answer_timeout)
    policy = BalancingPolicy(
        roles=options.roles(),
        balancing=Balancing(options.load_balancer),
        retry_ratio=settings.failover.retry_ratio,
        retry_floor=settings.failover.retry_floor,
    )

    def on_breaker(name: str, old: BreakerState, new: BreakerState) -> None:
        what = f"the breaker of {name} went from {old.value} to {new.value}"
        process.endpoint_changed("generation", "llm", PoolEvent(what, Endpoint(name), breaker=(old, new)))

    generator = Generator(endpoints, time.monotonic, limits, policy=policy, on_breaker=on_breaker)
    servicer = GenerationServicer(
        generator,
        current_caller,
        most_characters=options.max_passages_chars,
        callers_may_bring_passages=options.callers_may_bring_passages,
    )

    def register(server: grpc.aio.Server) -> None:
        rpc.add_GenerationServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        """Endpoints are tried when they are needed: one that is down now may be back by then."""

    def impairment() -> str:
        found = generator.list_endpoints()
        out = [each.name for each in found if not each.healthy and each.breaker is not BreakerState.CLOSED]
        return f"language models do not answer: {', '.join(out)}" if out else ""

    return Service(
        name="generation",
        descriptors=[pb.DESCRIPTOR.services_by_name["GenerationService"]],
        register=register,
        ready=ready,
        close=generator.close,
        recorder=await process.recorder(settings, "generation", several=True),
        deadline_cap=options.timeout,
        impairment=impairment,
    )


def _endpoint(options: EndpointOptions, cross_encoder: CrossEncoder, times: GenerationOptions) -> AnswerEndpoint:
    if options.url == EXTRACTIVE:
        return ExtractiveEndpoint(cross_encoder, name=options.name, model=MS_MARCO_MINILM_L12.name)
    # Its HTTP client takes long to import, and the endpoint that runs here needs none.
    from services.generation.adapters.openai import OpenAIEndpoint  # noqa: PLC0415
    from services.generation.adapters.openai_request import Parameters  # noqa: PLC0415

    key = options.api_key.get_secret_value() if options.api_key else None
    parameters = Parameters(
        options.max_tokens_parameter, frozenset(options.omit_parameters), dict(options.extra_parameters)
    )
    return OpenAIEndpoint(
        options.name,
        options.url,
        options.model,
        api_key=key,
        timeout=times.first_token_timeout,
        total=times.answer_timeout,
        support=cross_encoder,
        parameters=parameters,
        opened=options.thinking == "opened",
    )
