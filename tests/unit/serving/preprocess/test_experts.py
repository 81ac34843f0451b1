"""Every expert with pictures on a device: rows go to the engine as they are, and say what the host's would have said.

The device is torch on the CPU: `HostPicture` is a picture there, `HostRow` a row, `RowsEngine` an engine that takes it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from services.detection.model import DetectionParams, Detector
from services.detection.owlv2.bundle import IMAGE_OUTPUTS
from services.detection.owlv2.model import Owlv2Detector, Owlv2Params
from services.ocr.model import Limits, OcrModel, OcrParams
from services.ocr.stages import OcrStages
from services.panoptic.eomt.model import EomtModel
from services.panoptic.mask2former.model import Mask2FormerModel
from services.panoptic.model import PanopticModel, PanopticParams
from services.scene_graph.fusion import FusedModel, FusedParams
from services.scene_graph.model import SceneGraphModel, SceneGraphParams
from services.scene_graph.psgtr.model import PsgtrModel
from serving.engine import FakeEngine, Tensor, TensorSpec
from serving.engine.rows import Row
from serving.engine.tensorrt.device import Buffer, PlacedTensor
from serving.expert import Stages, by_pixels, by_shape
from serving.image import ImageLimits, decode_image
from serving.preprocess import Picture, Recipe, SquareRecipe
from serving.preprocess.tensors import SQUARE_TOLERANCE_LEVELS, TOLERANCE_LEVELS, prepare
from serving.telemetry.metrics import Metrics

Pixels = NDArray[np.uint8]


@dataclass
class HostRow:
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    def copy_to(self, buffer: Buffer, offset: int) -> None:
        raise AssertionError("the engine here reads rows where they are")


@dataclass
class HostPicture:
    """Its pixels on the device are one level brighter than the file's, as another decoder's may be: who needs the
    file to the bit can be told from who does not."""

    decoded: Pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.decoded.shape
        return height, width, channels

    def prepare(self, recipe: Recipe | SquareRecipe) -> PlacedTensor:
        return HostRow(prepare(torch.from_numpy(self.to_host()), recipe))

    def to_host(self) -> Pixels:
        return self.decoded + np.uint8(1)

    def exact(self) -> Pixels:
        return self.decoded


class RowsEngine(FakeEngine):
    """Answers with nothing of the right shapes; `seen` is what it was given, `placed` how many rows on its device."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Mapping[str, tuple[int | str, ...]]) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.placed = 0
        specs = [TensorSpec(name, ("batch", *shape), "float32") for name, shape in outputs.items()]

        def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            self.seen.append({name: array.copy() for name, array in given.items()})
            batch = len(next(iter(given.values())))
            # Sizes that the graph leaves open follow the input: masks are a quarter of it.
            height, width = (side // 4 for side in given[inputs[0].name].shape[2:])
            sizes = {"rows": height, "columns": width, "height": 4 * height, "width": 4 * width, "anchors": 5}
            return {
                spec.name: np.zeros(
                    (batch, *(sizes[size] if isinstance(size, str) else size for size in spec.shape[1:])),
                    np.float32,
                )
                for spec in specs
            }

        super().__init__(inputs, specs, compute, max_batch=4)

    def run_rows(self, inputs: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        return self.run({name: np.stack([self._read(row) for row in rows]) for name, rows in inputs.items()})

    def _read(self, row: Row) -> Tensor:
        if isinstance(row, np.ndarray):
            return row
        assert isinstance(row, HostRow)
        self.placed += 1
        return row.tensor.numpy()


def pixels_of(height: int | str, width: int | str, name: str = "pixel_values") -> TensorSpec:
    return TensorSpec(name, ("batch", 3, height, width), "float32")


@dataclass
class Expert:
    """`levels`: how many levels of 0-255 are 1 in the network's input, at least; `reference`: None without that."""

    model: Any
    engine: RowsEngine
    params: Any
    levels: float
    reference: Any = None
    infer: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    tolerance: float = TOLERANCE_LEVELS

    def run(self, *pictures: Picture, params: Any = None) -> Tensor:
        """What the network was given of these pictures."""
        prepared = [self.model.preprocess(picture, params or self.params) for picture in pictures]
        results = (self.infer or self.model.infer)(prepared)
        assert len(results) == len(pictures)
        return self.engine.seen[-1][self.engine.inputs[0].name]


YOLO = {"output0": (116, "anchors"), "output1": (32, "rows", "columns")}
QUERIES = {"class_queries_logits": (4, 134), "masks_queries_logits": (4, 16, 16)}
PSGTR: dict[str, tuple[int | str, ...]] = {
    "subject_logits": (2, 134),
    "object_logits": (2, 134),
    "relation_logits": (2, 57),
    "subject_boxes": (2, 4),
    "object_boxes": (2, 4),
    "subject_masks": (2, "rows", "columns"),
    "object_masks": (2, "rows", "columns"),
}
SEGMENT = PanopticParams(0.5, 0.5, 0.5, 10)
AS_PUBLISHED = PanopticParams(0.5, 0.95, 0.8, 10, reference=True)


def panoptic() -> Expert:
    engine = RowsEngine([pixels_of("height", "width", "images")], YOLO)
    return Expert(PanopticModel(engine), engine, SEGMENT, 255)


def mask2former() -> Expert:
    engine = RowsEngine([pixels_of(64, 64)], QUERIES)
    return Expert(Mask2FormerModel(engine), engine, SEGMENT, 57, AS_PUBLISHED)


def eomt() -> Expert:
    engine = RowsEngine([pixels_of(64, 64)], QUERIES)
    return Expert(EomtModel(engine), engine, SEGMENT, 57)


def detection() -> Expert:
    engine = RowsEngine([pixels_of("height", "width", "images")], {"output0": (84, "anchors")})
    return Expert(Detector(engine), engine, DetectionParams(0.5, 10), 255)


def owlv2() -> Expert:
    shapes: dict[str, tuple[int | str, ...]] = dict.fromkeys(IMAGE_OUTPUTS, (4,))
    engine = RowsEngine([pixels_of(64, 64)], shapes | {"class_embeds": (4, 2), "boxes": (4, 4)})
    return Expert(
        Owlv2Detector(engine, labels=("cat",)),
        engine,
        Owlv2Params(0.5, 10),
        65,
        Owlv2Params(0.5, 10, reference=True),
        tolerance=SQUARE_TOLERANCE_LEVELS,
    )


def scene_graph() -> Expert:
    engine = RowsEngine([pixels_of("height", "width", "images")], YOLO)
    return Expert(SceneGraphModel(engine), engine, SceneGraphParams(), 255)


def psgtr() -> Expert:
    mask = TensorSpec("pixel_mask", ("batch", "height", "width"), "float32")
    engine = RowsEngine([pixels_of("height", "width"), mask], PSGTR)
    model = PsgtrModel(engine, longer=96, shorter=64)
    return Expert(model, engine, SceneGraphParams(), 57, SceneGraphParams(reference=True))


def fused() -> Expert:
    trained, geometric = psgtr(), scene_graph()
    model = FusedModel(trained.model, geometric.model)
    params = FusedParams(trained.params, geometric.params)
    return Expert(model, trained.engine, params, 57, FusedParams(trained.reference, geometric.params))


def ocr() -> Expert:
    engine = RowsEngine([pixels_of("height", "width", "x")], {"map": (1, "height", "width")})
    lines = RowsEngine([pixels_of(48, "width", "x")], {"y": (3, 2)})
    model = OcrModel(engine, lines, None, ("", " "), limits=Limits(min_side=64, max_side=128))
    return Expert(model, engine, OcrParams(), 127.5, infer=model.detect)


EXPERTS = [panoptic, mask2former, eomt, detection, owlv2, scene_graph, psgtr, fused, ocr]
WITH_REFERENCE = [mask2former, owlv2, psgtr, fused]


def picture(height: int = 75, width: int = 100, seed: int = 0) -> Pixels:
    """No level is 255, so that `HostPicture` can be brighter."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("make", EXPERTS)
@pytest.mark.parametrize("size", [(75, 100), (100, 75), (64, 64), (20, 90)])
def test_the_network_is_given_the_same_from_the_device(
    make: Callable[[], Expert], size: tuple[int, int]
) -> None:
    expert, one, other = make(), picture(*size, 1), picture(*size, 2)
    expected = expert.run(one + np.uint8(1), other)
    given = expert.run(HostPicture(one), other)
    assert expert.engine.placed == 1
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() * expert.levels <= expert.tolerance + 0.01
    np.testing.assert_array_equal(given[1], expected[1])


@pytest.mark.parametrize("make", EXPERTS)
def test_pictures_of_the_host_take_the_way_of_the_host(make: Callable[[], Expert]) -> None:
    expert = make()
    expert.run(picture(), picture(seed=1))
    assert expert.engine.placed == 0


@pytest.mark.parametrize("make", WITH_REFERENCE)
def test_the_published_system_is_followed_from_the_file_itself(make: Callable[[], Expert]) -> None:
    expert = make()
    expected = expert.run(picture(), params=expert.reference)
    given = expert.run(HostPicture(picture()), params=expert.reference)
    np.testing.assert_array_equal(given, expected)
    assert expert.engine.placed == 0


def test_a_strip_is_padded_on_the_host() -> None:
    expert, strip = ocr(), picture(8, 120)
    expected = expert.run(strip + np.uint8(1))
    np.testing.assert_array_equal(expert.run(HostPicture(strip)), expected)
    assert expert.engine.placed == 0


def test_lines_are_cut_out_of_the_picture_that_the_device_decoded() -> None:
    prepared = ocr().model.preprocess(HostPicture(picture()), OcrParams())
    np.testing.assert_array_equal(prepared.image, picture() + np.uint8(1))


def file(pixels: Pixels) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def on_device(data: bytes, limits: ImageLimits) -> Picture:
    return HostPicture(decode_image(data, limits))


async def test_the_stages_hand_on_what_they_were_told_to_decode_with() -> None:
    expert = detection()
    stages = Stages[Any, Any](
        expert.model.infer,
        metrics=Metrics("detection"),
        max_batch=2,
        max_queue=4,
        cost=by_pixels,
        group=by_shape,
        decode=on_device,
    )
    found, _ = await stages.run(
        file(picture()),
        lambda image: expert.model.preprocess(image, expert.params),
        lambda raw: expert.model.postprocess(raw, expert.params),
    )
    await stages.close()
    assert (found.height, found.width) == (75, 100)
    assert expert.engine.placed == 1


async def test_ocr_hands_it_on_too() -> None:
    expert = ocr()
    stages = OcrStages(
        expert.model, metrics=Metrics("ocr"), max_batch=1, max_lines=1, max_queue=1, decode=on_device
    )
    result, _ = await stages.run(file(picture()), OcrParams())
    await stages.close()
    assert (result.height, result.width) == (75, 100)
    assert expert.engine.placed == 1
