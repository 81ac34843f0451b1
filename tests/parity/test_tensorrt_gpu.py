"""TensorRT against ONNX Runtime on a GPU: the same stored inputs, the same values within the precision's tolerance.

Not run where there is no GPU, which so far is everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.engines_calibration import calibration_of
from cli.graphs import GRAPHS
from services.detection.model import DetectionParams, Detector
from serving.engine import OnnxRuntimeEngine, Tensor, TensorSpec
from serving.engine.graph import ExportedGraph, prepare_graph
from serving.engine.settings import EngineSettings
from serving.engine.tensorrt import BuildRequest, build_plan, load_library
from serving.engine.tensorrt.gpu import present_gpus
from serving.engine.tensorrt.library import LIBRARIES, installed
from serving.engine.tensorrt.opening import PlanWeights, open_tensorrt
from serving.engine.tensorrt.plan import Precision
from serving.engine.tensorrt.refit import can_strip
from serving.engine.tensorrt.store import PlanStore
from serving.image import ImageLimits, decode_image
from serving.preprocess import Picture
from serving.preprocess.codec import codec_installed
from serving.preprocess.selection import decoder_for
from serving.weights import WeightStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.weights,
    pytest.mark.slow,
    pytest.mark.skipif(not present_gpus(), reason="no GPU"),
    pytest.mark.skipif(not any(map(installed, LIBRARIES)), reason="no TensorRT"),
]

PHOTOS = Path(__file__).parent.parent / "assets" / "photos"

# Of each output's largest value. fp32 convolutions may use TF32, which has the mantissa of half precision.
TOLERANCE: dict[Precision, float] = {"fp32": 5e-3, "fp16": 2e-2, "bf16": 1e-1}


def stored_inputs(graph: ExportedGraph, specs: tuple[TensorSpec, ...], batch: int) -> dict[str, Tensor]:
    """The same every time: floats seeded, uniform in [0, 1), integers one."""
    rng = np.random.default_rng(7)
    shapes = {spec.name: (batch, *graph.sample[spec.name][1:]) for spec in specs}
    return {
        spec.name: rng.random(shapes[spec.name], np.float32)
        if spec.dtype == "float32"
        else np.ones(shapes[spec.name], spec.dtype)
        for spec in specs
    }


@pytest.mark.parametrize("graph", [graph for graph in GRAPHS if not graph.full], ids=lambda graph: graph.name)
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("stripped", [False, True], ids=["whole", "stripped"])
def test_tensorrt_answers_as_onnx_runtime_does(
    graph: ExportedGraph, precision: Precision, stripped: bool, tmp_path: Path
) -> None:
    library, target = load_library(), present_gpus()[0].target
    if stripped and not can_strip(library):
        pytest.skip(f"{library.name} builds no plans without weights")
    prepared = prepare_graph(graph, precision, WeightStore())
    store = PlanStore(tmp_path)
    request = BuildRequest(prepared.onnx, graph.profiles, (target,), stripped=stripped)
    key = prepared.key(library, (target,), stripped=stripped)
    store.obtain(key, lambda _: build_plan(library, request))
    largest = graph.profiles[0].max_batch
    ours = open_tensorrt(
        graph.name,
        prepared.digest,
        store=store,
        library=library,
        precision=precision,
        weights=lambda: PlanWeights(prepared.onnx, prepared.recipe),
    )
    reference = OnnxRuntimeEngine(prepared.source, max_batch=largest)
    # Every batch three times: call by call, while it is recorded, and replayed.
    for batch in (1, 2, largest, 1, 2, largest, 1, 2, largest):
        inputs = stored_inputs(graph, reference.inputs, batch)
        expected, found = reference.run(inputs), ours.run(inputs)
        for name, want in expected.items():
            apart = np.abs(found[name].astype(np.float64) - want).max()
            assert apart <= TOLERANCE[precision] * np.abs(want).max(), (name, batch)
    ours.close()
    reference.close()


@pytest.mark.parametrize("name", ["yolo26n", "ppocrv6-det", "eomt-tiny", "owlv2-tiny-image"])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_are_those_of_the_graph(name: str, precision: Precision, tmp_path: Path) -> None:
    """Against ONNX Runtime on the same pairs of the same scales: what the calibration cost is no part of it."""
    library, target = load_library(), present_gpus()[0].target
    if precision == "fp8" and int(target.removeprefix("sm")) < 89:
        pytest.skip(f"{target} has no float8")
    (graph,) = [graph for graph in GRAPHS if graph.name == name]
    prepared = prepare_graph(
        graph, precision, WeightStore(), calibration=lambda source: calibration_of(graph, source, PHOTOS)
    )
    store = PlanStore(tmp_path)
    request = BuildRequest(prepared.onnx, graph.profiles, (target,))
    store.obtain(prepared.key(library, (target,)), lambda _: build_plan(library, request))
    ours = open_tensorrt(graph.name, prepared.digest, store=store, library=library, precision=precision)
    reference = OnnxRuntimeEngine(prepared.onnx, max_batch=2)
    inputs = stored_inputs(graph, reference.inputs, 2)
    expected, found = reference.run(inputs), ours.run(inputs)
    for output, want in expected.items():
        apart = np.abs(found[output].astype(np.float64) - want).max()
        # A value on the edge between two steps falls to either side, and what follows differs by a step.
        assert apart <= 5e-2 * np.abs(want).max(), output
    ours.close()
    reference.close()


@pytest.mark.skipif(not codec_installed(), reason="no nvImageCodec")
def test_an_expert_finds_the_same_in_pictures_that_the_device_prepared(tmp_path: Path) -> None:
    """Objects that are sure on one way are there on the other: what decoders round differently moves them a little."""
    library, target = load_library(), present_gpus()[0].target
    (graph,) = [graph for graph in GRAPHS if graph.name == "yolo26n"]
    prepared = prepare_graph(graph, "fp16", WeightStore())
    store = PlanStore(tmp_path)
    request = BuildRequest(prepared.onnx, graph.profiles, (target,))
    store.obtain(prepared.key(library, (target,)), lambda _: build_plan(library, request))
    engine = open_tensorrt(graph.name, prepared.digest, store=store, library=library)
    decode = decoder_for(EngineSettings(port=0, engine="tensorrt"), engine)
    model, params = Detector(engine), DetectionParams(0.4, 50)
    photos = [photo.read_bytes() for photo in sorted(PHOTOS.glob("*.jpg"))]
    on_device = [decode(photo, ImageLimits()) for photo in photos]
    assert not any(isinstance(picture, np.ndarray) for picture in on_device)
    ways: list[list[Picture]] = [on_device, [decode_image(photo) for photo in photos]]
    # Three times, as above; photos of one shape share a run.
    for _ in range(3):
        device, host = (
            [
                model.postprocess(raw, params)
                for raw in model.infer([model.preprocess(picture, params) for picture in pictures])
            ]
            for pictures in ways
        )
        for ours, reference in zip(device, host, strict=True):
            for box, label in zip(
                reference.boxes[sure := reference.scores > 0.6], reference.labels[sure], strict=True
            ):
                apart = np.abs(ours.boxes[ours.labels == label] - box).max(axis=1, initial=0.0)
                assert apart.min(initial=1.0) < 0.02
    engine.close()
