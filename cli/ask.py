"""`polysight ask`: a picture and a question in, the experts' reports and the streamed answer out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.markup import escape

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
from cli.perceive import BudgetOption, ExpertsOption, PictureOption, VocabularyOption, perception_options
from polysight.gateway.v1 import polysight_pb2 as gateway_pb2
from polysight.gateway.v1 import polysight_pb2_grpc as gateway_grpc
from polysight.llm.v1 import generation_pb2 as llm_pb2


@dataclass
class Conversation:
    """All that came back for one question. Times are in milliseconds, as the client saw them."""

    reports: list[gateway_pb2.ExpertReport] = field(default_factory=list)
    verbalization: gateway_pb2.Verbalization | None = None
    answer: str = ""
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    done: gateway_pb2.AnswerDone | None = None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "answer": self.answer,
            "verbalization": self.verbalization.text if self.verbalization is not None else "",
            "experts": [report.as_dict(one) for one in self.reports],
            "ttft_ms": round(self.ttft_ms, 1),
            "total_ms": round(self.total_ms, 1),
        }


def answer_request(
    image: bytes,
    question: str,
    *,
    options: gateway_pb2.PerceptionOptions | None = None,
    adapters: str | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 0,
    constraint: llm_pb2.OutputConstraint | None = None,
) -> gateway_pb2.AnswerRequest:
    """A request for one question. `adapters`: None is the model's default, "none" none, else "object,vl:0.5"."""
    request = gateway_pb2.AnswerRequest(options=options, constraint=constraint)
    request.image.data = image
    request.turns.add(role=llm_pb2.ROLE_USER, text=question)
    if temperature > 0:
        request.sampling.temperature = temperature
    if max_new_tokens > 0:
        request.sampling.max_new_tokens = max_new_tokens
    if adapters is not None:
        request.adapters.SetInParent()
        for part in filter(None, () if adapters == "none" else adapters.split(",")):
            name, _, scale = part.partition(":")
            one = request.adapters.adapters.add(name=name.strip())
            if scale:
                one.scale = float(scale)
    return request


def read_constraint(schema: Path | None, regex: str | None) -> llm_pb2.OutputConstraint | None:
    """The form of the answer: a file with a JSON Schema, or a regular expression, or none.

    Exits with code 2 and says why: both are given, the file cannot be read, or what is in it is not JSON. What a
    schema may say is the language model server's to judge.
    """
    if schema is not None and regex is not None:
        raise typer.BadParameter("an answer has one form: give either --schema or --regex")
    if regex is not None:
        if not regex:
            raise typer.BadParameter("the regular expression is empty", param_hint="--regex")
        return llm_pb2.OutputConstraint(regex=regex)
    if schema is None:
        return None
    try:
        text = schema.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {schema}: {error.strerror}", param_hint="--schema") from error
    except ValueError as error:
        # Bytes that are no UTF-8 end here too.
        raise typer.BadParameter(f"{schema} is not JSON: {error}", param_hint="--schema") from error
    return llm_pb2.OutputConstraint(json_schema=text)


def converse(
    channel: grpc.Channel, request: gateway_pb2.AnswerRequest, console: Console, *, timeout_s: float
) -> Conversation:
    """Asks, printing each event as it arrives. Raises grpc.RpcError if the call fails."""
    told = Conversation()
    started = time.perf_counter()
    for event in gateway_grpc.PolysightServiceStub(channel).Answer(request, timeout=timeout_s):
        kind = event.WhichOneof("event")
        if kind == "expert_report":
            told.reports.append(event.expert_report)
            console.print(report.line(event.expert_report), highlight=False)
        elif kind == "verbalization":
            told.verbalization = event.verbalization
            console.print(f"\n[dim]{escape(event.verbalization.text)}[/]\n", highlight=False)
        elif kind == "token":
            if not told.ttft_ms:
                told.ttft_ms = (time.perf_counter() - started) * 1e3
            console.print(event.token.text, end="", markup=False, highlight=False, style="bold cyan")
        elif kind == "done":
            told.done = event.done
            told.answer = event.done.text
    told.total_ms = (time.perf_counter() - started) * 1e3
    console.print("\n")
    return told


def ask(
    image: Annotated[Path, typer.Argument(help="A picture: JPEG, PNG, WebP, GIF, BMP or TIFF.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    experts: ExpertsOption = "",
    budget: BudgetOption = 0.0,
    look_for: VocabularyOption = None,
    adapters: Annotated[
        str | None, typer.Option(help='"none", or names with scales: "object,vl:0.5". Default: the model\'s.')
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="0: the model's default.")] = 0,
    schema: Annotated[
        Path | None, typer.Option(help="A file with a JSON Schema; the answer is one JSON value of it.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="What the whole answer matches (Rust syntax).")] = None,
    picture_path: PictureOption = None,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    timeout: TimeoutOption = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Asks a question about a picture."""
    constraint = read_constraint(schema, regex)
    data = read_image(image)
    request = answer_request(
        data,
        question,
        options=perception_options(experts, budget, look_for),
        adapters=adapters,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        constraint=constraint,
    )
    console = Console(stderr=as_json)
    try:
        with channel_to(gateway) as channel:
            told = converse(channel, request, console, timeout_s=timeout)
    except grpc.RpcError as error:
        fail(error, gateway, as_json=as_json)
    if picture_path is not None:
        picture.annotate(data, told.reports, told.verbalization).save(picture_path)
    console.print(report.timing_table(told.reports, told.done))
    if as_json:
        answer = told.as_dict() | {"picture": str(picture_path) if picture_path else None}
        print(json.dumps(answer, ensure_ascii=False))
