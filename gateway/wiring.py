"""Puts the gateway's parts together; `__main__` adds the settings and the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc.aio

from gateway.answer import Answerer
from gateway.experts import KINDS, RemoteExpert
from gateway.llm import RemoteLanguageModels
from gateway.perceive import Perceiver
from gateway.service import PolysightService
from gateway.settings import GatewaySettings
from gateway.telemetry import GatewayMetrics
from gateway.translation import Seen, verbalize
from gateway.wording import Wording
from polysight.llm.v1 import generation_pb2
from serving.channel import open_channel
from serving.telemetry.metrics import Metrics

_FORMS: Mapping[str, generation_pb2.VerbalizationForm] = {
    "polysight": generation_pb2.VERBALIZATION_FORM_POLYSIGHT,
    "collavo": generation_pb2.VERBALIZATION_FORM_COLLAVO,
    "moai": generation_pb2.VERBALIZATION_FORM_MOAI,
}
_LLM_SERVICE = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name


@dataclass(frozen=True)
class Gateway:
    """The service and what it stands on."""

    service: PolysightService
    models: RemoteLanguageModels
    channels: tuple[grpc.aio.Channel, ...]
    default: Wording

    async def warm_up(self) -> None:
        """Begin to connect, and put nothing into words once in every form. Needs nobody to be there."""
        for channel in self.channels:
            channel.get_state(try_to_connect=True)
        for form in _FORMS.values():
            verbalize(Seen(), form, self.default.crayon_grid)
        self.models.begin()

    async def close(self) -> None:
        """Close all channels."""
        await asyncio.gather(*(channel.close() for channel in self.channels))


def build(settings: GatewaySettings, metrics: Metrics) -> Gateway:
    """The gateway of `settings`; must be called inside the event loop that will run it."""
    experts = {}
    channels = []
    for kind in KINDS:
        service = kind.method.strip("/").partition("/")[0]
        channel = open_channel(
            settings.addresses[kind.name],
            max_message_bytes=settings.max_message_bytes,
            health_service=service,
            intercepted=False,
        )
        channels.append(channel)
        experts[kind.expert] = RemoteExpert(kind, channel)
    llm_channel = open_channel(
        settings.llm_server_address,
        max_message_bytes=settings.max_message_bytes,
        health_service=_LLM_SERVICE,
    )
    channels.append(llm_channel)
    models = RemoteLanguageModels(
        llm_channel, ttl_s=settings.model_info_ttl_s, lookup_s=settings.model_lookup_s
    )
    default = Wording(_FORMS[settings.default_form], (settings.crayon_size, settings.crayon_size))
    counted = GatewayMetrics(metrics)
    perceiver = Perceiver(
        experts,
        models,
        default=default,
        limits=settings.image_limits,
        budget_s=settings.expert_budget_s,
        reserve_s=settings.reply_reserve_s,
        metrics=counted,
    )
    answerer = Answerer(
        perceiver,
        models,
        default=default,
        reserve_s=settings.answer_reserve_s,
        lookup_s=settings.model_lookup_s,
        metrics=counted,
    )
    return Gateway(PolysightService(perceiver, answerer), models, tuple(channels), default)
