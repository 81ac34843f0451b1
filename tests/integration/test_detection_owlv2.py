"""The detection service with OWLv2's graphs, over real gRPC: the real architecture, tiny, with random weights."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from polysight.common.v1 import geometry_pb2, image_pb2, model_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc
from services.detection.backend import open_backend
from services.detection.export import main
from services.detection.owlv2.words import BUILT_IN, read_words
from services.detection.service import FULL_NAME, DetectionServicer
from services.detection.settings import DetectionSettings
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error
from serving.expert import Stages
from serving.grpc_server import Server, Servicer
from serving.settings import ServerSettings
from serving.telemetry.metrics import Metrics
from serving.weights import WeightStore

pytest.importorskip("torch")
pytest.importorskip("transformers")

WIDTH, HEIGHT = 96, 64
RUNS = "detection_text_tower_runs_total"
VOCABULARIES = (
    ["cat", "traffic light"],
    ["wall"],
    ["grey wolf", "cat", "sky", "potter's wheel", "bus"],
    ["sofa", "dog"],
)


@dataclass(frozen=True)
class Service:
    """A running service: how to call it and what it counts."""

    stub: detection_pb2_grpc.DetectionServiceAsyncStub
    metrics: Metrics

    async def detect(self, **fields: Any) -> detection_pb2.DetectResponse:
        """Everything at a threshold of 0 unless something else is asked."""
        chosen: dict[str, Any] = {"image": picture(0), "score_threshold": 0.0}
        return await self.stub.Detect(detection_pb2.DetectRequest(**chosen | fields))

    async def describe(self) -> detection_pb2.DetectionServiceDescribeResponse:
        return await self.stub.Describe(detection_pb2.DetectionServiceDescribeRequest())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "owlv2-tiny"
    assert main(["owlv2", "random:tiny", str(out)]) == 0
    return out


@contextlib.asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Service]:
    given: dict[str, Any] = {"backend": "owlv2", "model_path": folder, "model_licence": "Apache-2.0"}
    chosen = DetectionSettings(**given | {"threads": 1, "max_batch": 4} | settings)
    backend, metrics = open_backend(chosen, WeightStore(folder.parent / "cache")), Metrics("detection")
    stages = Stages(backend.model.infer, metrics=metrics, max_batch=backend.max_batch, max_queue=64)
    search = backend.search(stages, metrics)
    servicer = DetectionServicer(backend.model, stages, search, description=backend.description)
    added = Servicer(
        FULL_NAME, lambda server: detection_pb2_grpc.add_DetectionServiceServicer_to_server(servicer, server)
    )
    async with Server(settings=ServerSettings(port=0), servicers=[added], metrics=metrics) as server:
        await asyncio.to_thread(backend.warm_up)
        await server.ready()
        async with open_channel(server.address) as channel:
            yield Service(detection_pb2_grpc.DetectionServiceStub(channel), metrics)
        await search.close()
        await stages.close()
    backend.close()


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> image_pb2.Image:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())


def corners(reply: detection_pb2.DetectResponse) -> np.ndarray[Any, Any]:
    return np.array(
        [[one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max] for one in reply.detections]
    )


def seen(reply: detection_pb2.DetectResponse) -> list[tuple[Any, ...]]:
    """What a reply says of the picture, to four digits: batches round differently."""
    rows = corners(reply).round(4).tolist()
    return [
        (one.label_id, one.label, one.vocabulary_index, round(one.score, 4), row)
        for one, row in zip(reply.detections, rows, strict=True)
    ]


async def test_its_own_words_are_looked_for_and_described(folder: Path) -> None:
    async with serving(folder) as service:
        reply, described = await service.detect(max_detections=5), await service.describe()
        assert service.metrics.value(RUNS) == 0
    words = read_words(BUILT_IN)
    assert len(reply.detections) == 5
    for one in reply.detections:
        assert one.label == words[one.label_id]
        assert words.index(one.label) == one.label_id, "of a repeated name the first is meant"
        assert not one.HasField("vocabulary_index")
        assert 0 <= one.objectness <= 1
    assert [one.score for one in reply.detections] == sorted(
        (one.score for one in reply.detections), reverse=True
    )
    assert (reply.image_width, reply.image_height, reply.profile) == (
        WIDTH,
        HEIGHT,
        model_pb2.PROFILE_SERVING,
    )
    own, description = described.own_vocabulary, described.description
    assert (own.name, own.size, own.distinct, own.template, own.max_tokens) == (
        "ade847_imagenet1000",
        1847,
        1732,
        "{}",
        16,
    )
    assert reply.vocabulary_version == own.version
    assert own.version in description.model.version
    assert tuple(description.labels) == words
    assert (description.vocabulary_size, description.open_vocabulary) == (1847, True)
    assert (description.input_width, description.input_height, description.max_batch_size) == (64, 64, 4)
    assert dict(description.thresholds) == pytest.approx({"score_threshold": 0.1, "iou_threshold": 1})
    assert {(one.artifact, one.licence) for one in description.weights} == {
        ("owlv2-tiny/image.onnx", "Apache-2.0"),
        ("owlv2-tiny/text.onnx", "Apache-2.0"),
    }
    assert described.class_agnostic
    assert described.image_queries
    assert list(described.profiles) == [model_pb2.PROFILE_SERVING, model_pb2.PROFILE_REFERENCE]


async def test_the_text_tower_does_not_run_once_warm(folder: Path) -> None:
    async with serving(folder) as service:
        assert service.metrics.value(RUNS) == 0
        for vocabulary in VOCABULARIES:
            await service.detect(vocabulary=vocabulary)
        warm = service.metrics.value(RUNS)
        for seed in range(3):
            await service.detect(image=picture(seed))
            for vocabulary in VOCABULARIES:
                reply = await service.detect(image=picture(seed), vocabulary=[*vocabulary, " CAT "])
                assert reply.detections
        assert warm is not None
        assert 1 <= warm <= len(VOCABULARIES)
        assert service.metrics.value(RUNS) == warm
        assert service.metrics.value("detection_text_embeddings") == 9


async def test_a_small_memory_forgets_but_never_mistakes(folder: Path) -> None:
    words = VOCABULARIES[2]
    async with serving(folder) as large, serving(folder, phrase_cache=1) as small:
        expected = seen(await large.detect(vocabulary=words))
        for _ in range(2):
            assert seen(await small.detect(vocabulary=words)) == expected
        assert small.metrics.value("detection_text_embeddings") == 1
        assert (small.metrics.value(RUNS) or 0) > (large.metrics.value(RUNS) or 0)


async def test_a_vocabulary_is_read_by_one_process_and_found_by_the_next(folder: Path) -> None:
    (words := folder.parent / "two.txt").write_text("# two words\ncat\ndog\ncat\n")
    versions = []
    for settings in ({}, {}, {"vocabulary_template": "a photo of a {}"}):
        async with serving(folder, vocabulary_path=words, **settings) as service:
            reply, own = await service.detect(), (await service.describe()).own_vocabulary
            assert {one.label for one in reply.detections} <= {"cat", "dog"}
            assert {one.label_id for one in reply.detections} <= {0, 1}
            assert (own.name, own.size, own.distinct) == ("two", 3, 2)
            versions.append(own.version)
    assert versions[0] == versions[1] != versions[2]
    derived = list((folder.parent / "cache" / "derived").glob("*/owlv2-two.npy"))
    assert len(derived) == 2


async def test_concurrent_callers_with_different_vocabularies_get_their_own_answers(folder: Path) -> None:
    asked = [
        {
            "image": picture(seed, 64 + 8 * seed, 64),
            "vocabulary": VOCABULARIES[seed % 4],
            "iou_threshold": 0.5,
        }
        for seed in range(16)
    ]
    async with serving(folder) as service:
        together = await asyncio.gather(*(service.detect(**fields) for fields in asked))
    async with serving(folder) as service:
        for fields, reply in zip(asked, together, strict=True):
            assert seen(await service.detect(**fields)) == seen(reply)
            assert [term.term for term in reply.vocabulary] == fields["vocabulary"]
            assert all(fields["vocabulary"][one.vocabulary_index] == one.label for one in reply.detections)
    assert max(reply.timings.batch_size for reply in together) > 1


async def test_thresholds_are_set_per_request(folder: Path) -> None:
    async with serving(folder, score_threshold=0.3, max_detections=7) as service:
        everything = await service.detect(iou_threshold=1, max_detections=100)
        middle = float(np.median([one.score for one in everything.detections]))
        above = await service.detect(score_threshold=middle, iou_threshold=1, max_detections=100)
        apart = await service.detect(iou_threshold=0)
        few = await service.detect()
    assert 0 < len(above.detections) < len(everything.detections)
    assert all(one.score >= middle for one in above.detections)
    assert 0 < len(apart.detections) < len(everything.detections)
    assert len(few.detections) <= 7


async def test_boxes_are_clipped_when_serving_and_raw_for_reference(folder: Path) -> None:
    async with serving(folder) as service:
        clipped = await service.detect(max_detections=4096)
        raw = await service.detect(profile=model_pb2.PROFILE_REFERENCE)
        default = await service.stub.Detect(
            detection_pb2.DetectRequest(image=picture(0), profile=model_pb2.PROFILE_REFERENCE)
        )
    assert corners(clipped).min() >= 0
    assert corners(clipped).max() <= 1
    assert raw.profile == model_pb2.PROFILE_REFERENCE
    assert len(raw.detections) == 16, "every patch, in the network's order"
    assert corners(raw).min() < 0 or corners(raw).max() > 1
    scores = [one.score for one in raw.detections]
    assert scores != sorted(scores, reverse=True)
    assert [one.score for one in default.detections] == pytest.approx([one for one in scores if one > 0.1])


async def test_objects_of_no_kind_are_scored_by_objectness(folder: Path) -> None:
    async with serving(folder) as service:
        reply = await service.detect(class_agnostic=True)
    assert reply.detections
    for one in reply.detections:
        assert one.score == pytest.approx(one.objectness)
        assert (one.label, one.label_id) == ("", 0)
        assert not one.HasField("vocabulary_index")
    assert not reply.vocabulary_version


async def test_a_picture_is_looked_for_in_others(folder: Path) -> None:
    box = geometry_pb2.Box(x_min=0.2, y_min=0.1, x_max=0.6, y_max=0.9)
    queries = [
        detection_pb2.ImageQuery(image=picture(1)),
        detection_pb2.ImageQuery(image=picture(1), box=box),
        detection_pb2.ImageQuery(image=picture(2)),
    ]
    async with serving(folder) as service:
        reply = await service.detect(image=picture(1), image_queries=queries, iou_threshold=1)
        batches = service.metrics.value("detection_batch_size_sum")
        again = await service.detect(image=picture(1), image_queries=queries, iou_threshold=1)
        alone = await service.detect(image=picture(1), image_queries=queries[:1], iou_threshold=1)
        apart = await service.detect(image=picture(1), image_queries=queries)
        assert service.metrics.value("detection_batch_size_sum") == (batches or 0) + 3, (
            "pictures are remembered"
        )
        assert service.metrics.value(RUNS) == 0
    assert seen(reply) == seen(again)
    assert {one.image_query_index for one in reply.detections} <= {0, 1, 2}
    assert all(one.image_query_index == one.label_id and not one.label for one in reply.detections)
    assert all(one.HasField("image_query_index") for one in alone.detections)
    assert len(apart.detections) < len(reply.detections), "neighbours that overlap by more than 0.3 are one"


async def test_a_phrase_that_cannot_be_read_is_said_and_the_others_are_looked_for(folder: Path) -> None:
    words = ["cat", "a very long description of nothing in particular " * 4, " ", "dog <|endoftext|>", "sky"]
    async with serving(folder) as service:
        reply = await service.detect(vocabulary=words)
        alone = await service.detect(vocabulary=["cat", "sky"])
        nothing = await service.detect(vocabulary=[words[1]])
    assert [term.visible for term in reply.vocabulary] == [True, False, False, False, True]
    assert [list(term.labels) for term in reply.vocabulary] == [["cat"], [], [], [], ["sky"]]
    assert "the model reads 16" in reply.vocabulary[1].note
    assert "no word" in reply.vocabulary[2].note
    assert "keeps for itself" in reply.vocabulary[3].note
    assert {one.vocabulary_index for one in reply.detections} <= {0, 4}
    assert [one.label for one in reply.detections] == [one.label for one in alone.detections]
    assert [one.score for one in reply.detections] == pytest.approx([one.score for one in alone.detections])
    assert not nothing.detections


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": None}, "INVALID_FIELD"),
        ({"image": image_pb2.Image(data=b"no picture")}, "IMAGE_UNSUPPORTED_FORMAT"),
        ({"vocabulary": ["cat"], "class_agnostic": True}, "INVALID_FIELD"),
        ({"image_queries": [detection_pb2.ImageQuery()]}, "INVALID_FIELD"),
        (
            {"image_queries": [detection_pb2.ImageQuery(image=image_pb2.Image(data=b"no"))]},
            "IMAGE_UNSUPPORTED_FORMAT",
        ),
        (
            {
                "image_queries": [
                    detection_pb2.ImageQuery(
                        image=picture(1), box=geometry_pb2.Box(x_min=0.5, x_max=0.5, y_max=1)
                    )
                ]
            },
            "INVALID_FIELD",
        ),
        (
            {"vocabulary": ["cat"], "image_queries": [detection_pb2.ImageQuery(image=picture(1))]},
            "INVALID_FIELD",
        ),
        ({"iou_threshold": 1.5}, "INVALID_FIELD"),
    ],
)
async def test_bad_requests_are_refused_with_a_reason(
    folder: Path, fields: dict[str, Any], reason: str
) -> None:
    async with serving(folder) as service:
        with pytest.raises(grpc.RpcError) as caught:
            await service.detect(**fields)
    status = status_from_rpc_error(caught.value)
    info = error_info(status)
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert info is not None
    assert info.reason == reason
