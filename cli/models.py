"""`polysight models`: what answers in a running mesh, with versions, engines and licences.

`polysight models footprint` needs no mesh: see `cli.footprint`.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from cli.addresses import AddressOptions
from cli.connection import JsonOption, channel_to, explain
from cli.footprint import footprint
from polysight.common.v1 import model_pb2
from polysight.llm.v1 import generation_pb2 as llm_pb2
from polysight.llm.v1 import generation_pb2_grpc as llm_grpc
from polysight.vision.v1 import (
    detection_pb2,
    detection_pb2_grpc,
    ocr_pb2,
    ocr_pb2_grpc,
    panoptic_pb2,
    panoptic_pb2_grpc,
    scene_graph_pb2,
    scene_graph_pb2_grpc,
)

TIMEOUT_S = 5.0

app = typer.Typer(help="What answers in a running mesh, and what models weigh.", invoke_without_command=True)
app.command()(footprint)


def describe(name: str, channel: grpc.Channel) -> model_pb2.ModelDescription:
    """The `Describe` reply of an expert by name. Raises grpc.RpcError."""
    if name == "panoptic":
        stub = panoptic_pb2_grpc.PanopticServiceStub(channel)
        return stub.Describe(panoptic_pb2.PanopticServiceDescribeRequest(), timeout=TIMEOUT_S).description
    if name == "detection":
        detection = detection_pb2_grpc.DetectionServiceStub(channel)
        return detection.Describe(
            detection_pb2.DetectionServiceDescribeRequest(), timeout=TIMEOUT_S
        ).description
    if name == "scene_graph":
        scene_graph = scene_graph_pb2_grpc.SceneGraphServiceStub(channel)
        return scene_graph.Describe(
            scene_graph_pb2.SceneGraphServiceDescribeRequest(), timeout=TIMEOUT_S
        ).description
    ocr = ocr_pb2_grpc.OcrServiceStub(channel)
    return ocr.Describe(ocr_pb2.OcrServiceDescribeRequest(), timeout=TIMEOUT_S).description


@app.callback()
def models(
    context: typer.Context,
    host: AddressOptions = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Lists the experts' models, the language models and their adapters."""
    if context.invoked_subcommand is not None:
        return
    from cli.mesh import EXPERTS, LLM_SERVER

    told: dict[str, Any] = {"experts": {}, "models": [], "adapters": [], "unreachable": {}}
    table = Table("process", "model", "version", "engine", "vocabulary", "licences")
    for spec in EXPERTS:
        try:
            with channel_to(f"{host}:{spec.port}") as channel:
                description = describe(spec.name, channel)
        except grpc.RpcError as error:
            told["unreachable"][spec.name] = explain(error)
            table.add_row(spec.name, "[red]unreachable[/]")
            continue
        told["experts"][spec.name] = MessageToDict(description, preserving_proto_field_name=True)
        table.add_row(
            spec.name,
            description.model.name,
            description.model.version,
            description.model.engine,
            str(description.vocabulary_size),
            ", ".join(sorted({weights.licence for weights in description.weights})),
        )
    try:
        with channel_to(f"{host}:{LLM_SERVER.port}") as channel:
            stub = llm_grpc.GenerationServiceStub(channel)
            listed = stub.ListModels(llm_pb2.ListModelsRequest(), timeout=TIMEOUT_S).models
            adapters = stub.ListAdapters(llm_pb2.ListAdaptersRequest(), timeout=TIMEOUT_S).adapters
    except grpc.RpcError as error:
        told["unreachable"][LLM_SERVER.name] = explain(error)
        table.add_row(LLM_SERVER.name, "[red]unreachable[/]")
    else:
        told["models"] = [MessageToDict(one, preserving_proto_field_name=True) for one in listed]
        told["adapters"] = [MessageToDict(one, preserving_proto_field_name=True) for one in adapters]
        for one in listed:
            names = ", ".join(adapter.name for adapter in adapters if adapter.model == one.model.name)
            table.add_row(
                LLM_SERVER.name,
                f"{one.model.name} + {names}",
                one.model.version,
                f"{one.model.engine} {one.precision}",
                f"{one.context_length} positions",
                ", ".join(sorted({weights.licence for weights in one.weights})),
            )
    Console(stderr=as_json).print(table)
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    if told["unreachable"]:
        raise typer.Exit(1)
