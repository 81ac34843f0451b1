"""Experts and a language model server that look at nothing: real gRPC, invented results.

For measuring and testing the gateway alone. Every reply is a function of the picture's bytes, so that a mix-up of
two pictures shows, and has the size of a real one (segments with run lengths, boxes, lines of text).

    python -m bench.dummies ocr 50064        one of them as a process of its own; it takes 20 to 40 ms a picture
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2_grpc

from gateway.experts import EXPERT_NAMED, KIND_OF, ExpertKind
from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.llm.v1 import generation_pb2, generation_pb2_grpc
from polysight.vision.v1 import detection_pb2, ocr_pb2, panoptic_pb2, scene_graph_pb2
from serving.health import Health
from serving.server import Servicer

Context = grpc.aio.ServicerContext[Any, Any]
Act = Callable[[Any, Context], Awaitable[Any]]

REQUESTS: dict[polysight_pb2.Expert, Any] = {
    polysight_pb2.EXPERT_PANOPTIC: panoptic_pb2.SegmentRequest,
    polysight_pb2.EXPERT_DETECTION: detection_pb2.DetectRequest,
    polysight_pb2.EXPERT_SCENE_GRAPH: scene_graph_pb2.GenerateSceneGraphRequest,
    polysight_pb2.EXPERT_OCR: ocr_pb2.RecognizeTextRequest,
}


def fingerprint(image: bytes) -> str:
    """Eight hexadecimal digits that stand for a picture; the OCR dummy reads them in it."""
    return hashlib.sha256(image).hexdigest()[:8]


def delay_s(expert: polysight_pb2.Expert, image: bytes, least: float = 0.02, most: float = 0.04) -> float:
    """How long an expert takes over a picture, in seconds: random, but always the same for the same two.

    Only the picture's end counts, so that to know it costs next to nothing.
    """
    return random.Random(f"{expert} {image[-64:].hex()}").uniform(least, most)


def reply_to(kind: ExpertKind, request: Any) -> Any:
    """A reply of realistic size, made from the picture's bytes."""
    seed = random.Random(fingerprint(request.image.data))
    return _REPLIES[kind.name](request, seed)


class DummyExpert:
    """One expert. What it does with a call is `act`, which may be replaced while it serves.

    Attributes:
        calls: calls begun.
        cancelled: calls whose caller left.
        requests: what the last ones that it answered asked, without the pictures' bytes.
    """

    def __init__(self, kind: ExpertKind, act: Act | None = None) -> None:
        self.kind = kind
        self.act: Act = act or self.answer
        self.calls = self.cancelled = 0
        self.requests: list[Any] = []
        self._reply: Any = None

    async def answer(self, request: Any, _: Context) -> Any:
        """Reply at once."""
        return reply_to(self.kind, request)

    async def take_its_time(self, request: Any, _: Context) -> Any:
        """Reply after `delay_s`."""
        await asyncio.sleep(delay_s(self.kind.expert, request.image.data))
        return reply_to(self.kind, request)

    async def go_by_the_clock(self, request: Any, _: Context) -> Any:
        """Take `delay_s` and as little computing as possible: the reply is the same for all pictures."""
        await asyncio.sleep(delay_s(self.kind.expert, request.image.data))
        if self._reply is None:
            self._reply = reply_to(self.kind, request)
        return self._reply

    def servicer(self) -> Servicer:
        """As a server takes it."""
        service, _, method = self.kind.method.strip("/").partition("/")
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self._serve,
            request_deserializer=REQUESTS[self.kind.expert].FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )
        handlers = grpc.method_handlers_generic_handler(service, {method: handler})
        return Servicer(service, lambda server: server.add_generic_rpc_handlers((handlers,)))

    async def _serve(self, request: Any, context: Context) -> Any:
        self.calls += 1
        try:
            reply = await self.act(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        request.ClearField("image")
        self.requests = [*self.requests[-15:], request]
        return reply


class DummyLanguageModels(generation_pb2_grpc.GenerationServiceServicer):
    """A language model server that says back what it was told, word by word.

    Attributes:
        models: what ListModels says.
        pause_s: before each token.
        say: the answer to a request.
        requests: what was asked.
        cancelled: calls whose caller left.
        time_left: of each call's deadline when it arrived, in seconds.
    """

    def __init__(self, *models: generation_pb2.ModelInfo) -> None:
        self.models = models or (model_info(),)
        self.pause_s = 0.0
        self.say: Callable[[generation_pb2.GenerateRequest], str] = lambda request: request.verbalized_text
        self.requests: list[generation_pb2.GenerateRequest] = []
        self.listed = self.cancelled = 0
        self.time_left: list[float | None] = []

    async def ListModels(self, request: Any, context: Context) -> generation_pb2.ListModelsResponse:
        """The models."""
        self.listed += 1
        return generation_pb2.ListModelsResponse(models=self.models)

    async def ListAdapters(self, request: Any, context: Context) -> generation_pb2.ListAdaptersResponse:
        """None."""
        return generation_pb2.ListAdaptersResponse()

    async def Embed(self, request: Any, context: Context) -> generation_pb2.EmbedResponse:
        """Nothing."""
        return generation_pb2.EmbedResponse()

    async def CheckOptions(self, request: Any, context: Context) -> generation_pb2.CheckOptionsResponse:
        """Whatever it is."""
        return generation_pb2.CheckOptionsResponse()

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Say it, word by word."""
        self.requests.append(request)
        self.time_left.append(context.time_remaining())
        words = self.say(request).split(" ")
        try:
            for number, word in enumerate(words):
                await asyncio.sleep(self.pause_s)
                text = word if number == 0 else f" {word}"
                yield generation_pb2.GenerateResponse(token=generation_pb2.Token(text=text, id=number))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield generation_pb2.GenerateResponse(
            done=generation_pb2.Done(
                finish_reason=generation_pb2.FINISH_REASON_END_OF_TURN,
                text=" ".join(words),
                usage=generation_pb2.Usage(generated_tokens=len(words)),
                model=self.models[0].model,
                seed=request.seed,
            )
        )

    def servicer(self) -> Servicer:
        """As a server takes it."""
        return Servicer(
            "polysight.llm.v1.GenerationService",
            lambda server: generation_pb2_grpc.add_GenerationServiceServicer_to_server(self, server),
        )


def model_info(name: str = "dummy", **fields: Any) -> generation_pb2.ModelInfo:
    """A model that wants the `polysight` words and nothing else, but for `fields`."""
    form = fields.pop("verbalization_form", generation_pb2.VERBALIZATION_FORM_POLYSIGHT)
    reference = model_pb2.ModelRef(name=name, version="1", engine="dummy")
    return generation_pb2.ModelInfo(model=reference, verbalization_form=form, **fields)


_LABELS = ((0, "person"), (5, "bus"), (2, "car"), (9, "traffic light"))
_ME = model_pb2.ModelRef(name="dummy", version="1", engine="dummy")


def _place(number: int) -> tuple[tuple[int, str], geometry_pb2.Box]:
    """The n-th object of every picture: all dummies see the same ones."""
    x, y = (number % 4) * 0.25, (number // 4) * 0.25
    return _LABELS[number % len(_LABELS)], geometry_pb2.Box(x_min=x, y_min=y, x_max=x + 0.2, y_max=y + 0.2)


def _segments(request: panoptic_pb2.SegmentRequest, seed: random.Random) -> panoptic_pb2.SegmentResponse:
    response = panoptic_pb2.SegmentResponse(image_width=810, image_height=1080, model=_ME)
    for number in range(12):
        (label_id, label), box = _place(number)
        segment = response.segments.add(
            id=number + 1, label_id=label_id, label=label, is_thing=True, score=0.9, box=box, area=0.04
        )
        if request.mask_encoding != geometry_pb2.MASK_ENCODING_NONE:
            segment.mask.coco_rle.height, segment.mask.coco_rle.width = 1080, 810
            segment.mask.coco_rle.counts = seed.randbytes(400)
    response.segments.add(id=13, label_id=133, label="unlabelled", area=0.52)
    for size in request.grids:
        cells = np.arange(size.height * size.width) % 13
        response.grids.add(height=size.height, width=size.width, segment_ids=cells.astype("<u2").tobytes())
    return response


def _detections(_: detection_pb2.DetectRequest, seed: random.Random) -> detection_pb2.DetectResponse:
    response = detection_pb2.DetectResponse(image_width=810, image_height=1080, model=_ME)
    for number in range(15):
        (label_id, label), box = _place(number)
        score = seed.uniform(0.5, 1.0)
        response.detections.add(box=box, score=score, label_id=label_id, label=label)
    return response


def _scene(
    request: scene_graph_pb2.GenerateSceneGraphRequest, seed: random.Random
) -> scene_graph_pb2.GenerateSceneGraphResponse:
    response = scene_graph_pb2.GenerateSceneGraphResponse(image_width=810, image_height=1080, model=_ME)
    for number in range(8):
        (label_id, label), box = _place(number)
        seen = response.objects.add(label_id=label_id, label=label, score=0.9, box=box)
        if request.mask_encoding != geometry_pb2.MASK_ENCODING_NONE:
            seen.mask.coco_rle.height, seen.mask.coco_rle.width = 1080, 810
            seen.mask.coco_rle.counts = seed.randbytes(400)
    for subject, target in ((0, 1), (1, 2), (4, 5)):
        response.relations.add(
            subject_index=subject, object_index=target, predicate_id=4, predicate="beside", score=0.85
        )
    return response


def _lines(request: ocr_pb2.RecognizeTextRequest, _: random.Random) -> ocr_pb2.RecognizeTextResponse:
    response = ocr_pb2.RecognizeTextResponse(image_width=810, image_height=1080, model=_ME)
    for number, text in enumerate((fingerprint(request.image.data), "cero", "emisiones")):
        box = _place(number)[1]
        corners = (
            (box.x_min, box.y_min),
            (box.x_max, box.y_min),
            (box.x_max, box.y_max),
            (box.x_min, box.y_max),
        )
        line = response.lines.add(text=text, confidence=0.97, box=box)
        for x, y in corners:
            line.polygon.points.add(x=x, y=y)
    return response


_REPLIES: dict[str, Callable[[Any, random.Random], Any]] = {
    "panoptic": _segments,
    "detection": _detections,
    "scene_graph": _scene,
    "ocr": _lines,
}


async def main(name: str, port: int) -> None:
    """Serve one dummy without all that real experts do around a call: the gateway is what is measured."""
    if name == "llm_server":
        servicer = DummyLanguageModels().servicer()
    else:
        expert = DummyExpert(KIND_OF[EXPERT_NAMED[name]])
        expert.act = expert.go_by_the_clock
        servicer = expert.servicer()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer.add(server)
    health = Health([servicer.full_name])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await health.set_serving(True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
