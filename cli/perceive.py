"""`polysight perceive`: what the experts see in a picture, without asking the language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from cli import picture, report
from cli.connection import (
    DEFAULT_GATEWAY,
    GatewayOption,
    JsonOption,
    TimeoutOption,
    channel_to,
    fail,
    read_image,
)
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2
from polysight.gateway.v1 import polysight_pb2_grpc as gateway_grpc

ExpertsOption = Annotated[
    str, typer.Option(help="Comma-separated: panoptic, detection, scene_graph, ocr. Default: all.")
]
BudgetOption = Annotated[float, typer.Option(help="Seconds to wait for experts; 0: the gateway's setting.")]
VocabularyOption = Annotated[
    list[str] | None, typer.Option("--look-for", help="A word for the detection expert; may be given again.")
]
PictureOption = Annotated[Path | None, typer.Option("--picture", help="Save the annotated picture here.")]


def perception_options(
    experts: str, budget_s: float, vocabulary: list[str] | None
) -> gateway_pb2.PerceptionOptions:
    """Options from command-line values; raises typer.BadParameter for an expert that does not exist."""
    options = gateway_pb2.PerceptionOptions(vocabulary=vocabulary or [])
    for name in filter(None, (part.strip() for part in experts.split(","))):
        if name not in report.EXPERTS_BY_NAME:
            raise typer.BadParameter(f"no expert is called {name!r}: {', '.join(report.EXPERTS_BY_NAME)}")
        options.experts.append(report.EXPERTS_BY_NAME[name])
    if budget_s > 0:
        options.budget.FromMilliseconds(round(budget_s * 1000))
    return options


def perceive(
    image: Annotated[Path, typer.Argument(help="A picture: JPEG, PNG, WebP, GIF, BMP or TIFF.")],
    experts: ExpertsOption = "",
    budget: BudgetOption = 0.0,
    look_for: VocabularyOption = None,
    picture_path: PictureOption = None,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Asks the vision experts about a picture and puts what they saw into words."""
    data = read_image(image)
    request = gateway_pb2.PerceiveRequest(options=perception_options(experts, budget, look_for))
    request.image.data = data
    try:
        with channel_to(gateway) as channel:
            reply = gateway_grpc.PolysightServiceStub(channel).Perceive(request, timeout=timeout)
    except grpc.RpcError as error:
        fail(error, gateway, as_json=as_json)
    console = Console(stderr=as_json)
    for one in reply.reports:
        console.print(report.line(one), highlight=False)
    console.print(f"\n{reply.verbalization.text}", markup=False, highlight=False)
    if picture_path is not None:
        picture.annotate(data, list(reply.reports), reply.verbalization).save(picture_path)
        console.print(f"\npicture: {picture_path}", highlight=False)
    if as_json:
        print(
            json.dumps(
                {
                    "verbalization": reply.verbalization.text,
                    "experts": [report.as_dict(one) for one in reply.reports],
                    "total_ms": round(report.milliseconds(reply.elapsed), 1),
                    "request_id": reply.request_id,
                    "picture": str(picture_path) if picture_path else None,
                },
                ensure_ascii=False,
            )
        )
