"""The experts as the gateway sees them: one interface, one remote implementation, one table of who there is.

What changes how an expert behaves (a cache, single flight) wraps the same interface. To add one: a row
in `KINDS`, and its sentence in `gateway.translation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import grpc.aio
from google.protobuf.message import Message

from polysight.common.v1 import geometry_pb2, model_pb2
from polysight.gateway.v1 import polysight_pb2
from polysight.vision.v1 import detection_pb2, ocr_pb2, panoptic_pb2, scene_graph_pb2
from serving.interceptors.client import Telling

ExpertId: TypeAlias = polysight_pb2.Expert
Result: TypeAlias = (
    panoptic_pb2.SegmentResponse
    | detection_pb2.DetectResponse
    | scene_graph_pb2.GenerateSceneGraphResponse
    | ocr_pb2.RecognizeTextResponse
)


class ImageField:
    """Field `image` of an expert's request, put on the wire format once for all experts.

    A protobuf message is the concatenation of its fields, and every expert's request has the same message in
    the same field number, so a request is these bytes followed by the bytes of its options. The picture is copied
    once per request and never parsed or encoded again.
    """

    __slots__ = ("_head", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        # Field 1, length-delimited, of the request, then of the image in it; an empty picture has no such field.
        inner = b"\x0a" + _varint(len(data)) if data else b""
        self._head = b"\x0a" + _varint(len(inner) + len(data)) + inner

    def request(self, options: bytes) -> bytes:
        """The request with this picture and `options`, the encoded rest of it."""
        return b"".join((self._head, self.data, options))


def _varint(number: int) -> bytes:
    """`number` as protobuf writes lengths: seven bits a byte, the lowest first, the eighth bit set but on the last."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@dataclass(frozen=True)
class ExpertOptions:
    """What a request asks of the experts; each takes from it what concerns it.

    Attributes:
        vocabulary: words to look for; empty for all that the detection expert knows.
        mask_encoding: how masks come back.
        crayon_grid: rows and columns of the panoptic index grid wanted besides, or None.
        segment_grid: the same of another one, for a language model that looks at segments; or None.
        profile: whose habits those follow that have a published system behind them.
    """

    vocabulary: tuple[str, ...] = ()
    mask_encoding: geometry_pb2.MaskEncoding = geometry_pb2.MASK_ENCODING_UNSPECIFIED
    crayon_grid: tuple[int, int] | None = None
    profile: model_pb2.Profile = model_pb2.PROFILE_UNSPECIFIED
    segment_grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class ExpertReply:
    """What an expert said, and whether it was known already."""

    result: Result
    cached: bool = False


class Expert(Protocol):
    """Someone who looks at one picture."""

    async def call(self, image: ImageField, options: ExpertOptions, timeout_s: float) -> ExpertReply:
        """Look at `image` within `timeout_s` seconds.

        Raises whatever went wrong: a PolysightError, a grpc.RpcError, TimeoutError. Cancelling the call
        cancels the work.
        """
        ...


@dataclass(frozen=True)
class ExpertKind:
    """How one kind of expert is asked.

    Attributes:
        expert: its number in the contract.
        name: its name in settings, metrics and provenance.
        field: where its result goes in `ExpertReport`.
        method: full gRPC method path.
        parse: bytes of a reply to the result.
        options: its request without the image.
    """

    expert: ExpertId
    name: str
    field: str
    method: str
    parse: Callable[[bytes], Result]
    options: Callable[[ExpertOptions], Message]


def _panoptic(options: ExpertOptions) -> panoptic_pb2.SegmentRequest:
    request = panoptic_pb2.SegmentRequest(mask_encoding=options.mask_encoding, profile=options.profile)
    # Of one size for both purposes, a grid is asked for once.
    for size in dict.fromkeys((options.crayon_grid, options.segment_grid)):
        if size is not None:
            request.grids.add(height=size[0], width=size[1])
    return request


def _detection(options: ExpertOptions) -> detection_pb2.DetectRequest:
    return detection_pb2.DetectRequest(vocabulary=options.vocabulary, profile=options.profile)


def _scene_graph(options: ExpertOptions) -> scene_graph_pb2.GenerateSceneGraphRequest:
    return scene_graph_pb2.GenerateSceneGraphRequest(
        mask_encoding=options.mask_encoding, profile=options.profile
    )


def _ocr(_: ExpertOptions) -> ocr_pb2.RecognizeTextRequest:
    return ocr_pb2.RecognizeTextRequest()


KINDS: Sequence[ExpertKind] = (
    ExpertKind(
        polysight_pb2.EXPERT_PANOPTIC,
        "panoptic",
        "panoptic",
        "/polysight.vision.v1.PanopticService/Segment",
        panoptic_pb2.SegmentResponse.FromString,
        _panoptic,
    ),
    ExpertKind(
        polysight_pb2.EXPERT_DETECTION,
        "detection",
        "detection",
        "/polysight.vision.v1.DetectionService/Detect",
        detection_pb2.DetectResponse.FromString,
        _detection,
    ),
    ExpertKind(
        polysight_pb2.EXPERT_SCENE_GRAPH,
        "scene_graph",
        "scene_graph",
        "/polysight.vision.v1.SceneGraphService/GenerateSceneGraph",
        scene_graph_pb2.GenerateSceneGraphResponse.FromString,
        _scene_graph,
    ),
    ExpertKind(
        polysight_pb2.EXPERT_OCR,
        "ocr",
        "ocr",
        "/polysight.vision.v1.OcrService/RecognizeText",
        ocr_pb2.RecognizeTextResponse.FromString,
        _ocr,
    ),
)
"""Every kind of expert, in the order of the contract's enum."""

KIND_OF: dict[ExpertId, ExpertKind] = {kind.expert: kind for kind in KINDS}
EXPERT_NAMED: dict[str, ExpertId] = {kind.name: kind.expert for kind in KINDS}


class RemoteExpert:
    """An expert in another process, over a channel without interceptors: four calls a request make them dear."""

    def __init__(self, kind: ExpertKind, channel: grpc.aio.Channel) -> None:
        self._kind = kind
        self._telling = Telling()
        # No serializer: requests are bytes already (see ImageField).
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, Result] = channel.unary_unary(
            kind.method, request_serializer=None, response_deserializer=kind.parse
        )

    async def call(self, image: ImageField, options: ExpertOptions, timeout_s: float) -> ExpertReply:
        """Ask over gRPC. Raises grpc.RpcError."""
        request = image.request(self._kind.options(options).SerializeToString())
        span, metadata = self._telling.begin(self._kind.method)
        call = self._call(request, timeout=timeout_s, metadata=metadata)
        self._telling.end_with(span, call)
        return ExpertReply(await call)
