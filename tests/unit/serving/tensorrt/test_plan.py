"""What is pure: names of architectures, shapes, keys and sidecars, what a library can build for, what is installed."""

from __future__ import annotations

import ctypes
import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.engine import TensorSpec
from serving.engine.backends import available_backends
from serving.engine.tensorrt import PlanKey, Profile, ShapeRange, TargetUnsupportedError, TensorRTLibrary
from serving.engine.tensorrt.errors import LibraryAbsentError, ProfileError
from serving.engine.tensorrt.gpu import Gpu, present_gpus
from serving.engine.tensorrt.library import TensorRTModule, library_of, load_library
from serving.engine.tensorrt.plan import TensorInfo, build_command, graph_digest
from serving.engine.tensorrt.profiles import bucket, choose, parse_range
from serving.engine.tensorrt.targets import parse_target, parse_targets, target_of


@given(st.integers(1, 15), st.integers(0, 9))
def test_every_way_to_write_an_architecture_is_one(major: int, minor: int) -> None:
    target = target_of(major, minor)
    for text in (
        f"sm{major}{minor}",
        f"SM_{major}{minor}",
        f"{major}.{minor}",
        f"sm{major}.{minor}",
        f" sm{major}{minor} ",
    ):
        assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "sm", "ampere", "sm8", "8.", "sm8600", "8.66"])
def test_what_names_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(TargetUnsupportedError, match="names no GPU architecture"):
        parse_target(text)


def test_a_list_of_architectures_is_sorted_and_each_is_there_once() -> None:
    assert parse_targets("sm120,8.6, sm80,sm86,") == ("sm80", "sm86", "sm120")
    assert parse_targets("") == ()


def test_ranges_are_ordered_and_of_one_rank() -> None:
    for low, best, high in [
        ((1, 4), (2, 3), (2, 8)),
        ((2,), (1,), (3,)),
        ((1,), (1, 2), (1, 2)),
        ((0,), (1,), (1,)),
    ]:
        with pytest.raises(ValidationError):
            ShapeRange(min=low, opt=best, max=high)


def narrow(low: int, best: int, high: int) -> Profile:
    return Profile(shapes={"x": ShapeRange(min=(1, low), opt=(4, best), max=(8, high))})


@given(st.integers(1, 8), st.integers(1, 64))
def test_the_chosen_profile_takes_the_shapes_and_none_is_tuned_closer(batch: int, width: int) -> None:
    profiles = (narrow(1, 4, 16), narrow(8, 32, 64), narrow(1, 64, 64))
    chosen = choose(profiles, {"x": (batch, width)})
    assert profiles[chosen].accepts({"x": (batch, width)})
    distances = [
        each.distance({"x": (batch, width)}) for each in profiles if each.accepts({"x": (batch, width)})
    ]
    assert profiles[chosen].distance({"x": (batch, width)}) == min(distances)


def test_shapes_outside_every_profile_are_named() -> None:
    with pytest.raises(ProfileError, match=r"\{'x': \[1, 65\]\}"):
        choose((narrow(1, 4, 16), narrow(8, 32, 64)), {"x": (1, 65)})


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_bucket_holds_the_batch_and_wastes_less_than_half(batch: int, largest: int) -> None:
    batch = min(batch, largest)
    size = bucket(batch, largest)
    assert batch <= size <= largest
    assert size < 2 * batch
    assert len({bucket(each, largest) for each in range(1, largest + 1)}) <= largest.bit_length() + 1


def test_a_profile_is_held_against_the_graph() -> None:
    fits = narrow(1, 4, 16)
    fits.check((TensorSpec("x", ("batch", "width"), "float32"),))
    for inputs, why in [
        ((TensorSpec("z", ("batch", "width"), "float32"),), "the graph takes"),
        ((TensorSpec("x", ("batch", 4), "float32"),), r"\(1, 1\) for x"),
        ((TensorSpec("x", ("batch", "width", 3), "float32"),), r"\(1, 1\) for x"),
    ]:
        with pytest.raises(ProfileError, match=why):
            fits.check(inputs)


def test_a_key_survives_json_and_its_address_does_not_depend_on_the_order_of_inputs(
    key_for: Callable[..., PlanKey],
) -> None:
    one = ShapeRange(min=(1,), opt=(1,), max=(1,))
    forth, back = Profile(shapes={"a": one, "b": one}), Profile(shapes={"b": one, "a": one})
    key = key_for(profiles=(forth,))
    assert PlanKey.model_validate_json(key.model_dump_json()) == key
    assert key_for(profiles=(back,)).digest == key.digest


def test_a_tensor_survives_json() -> None:
    spec = TensorSpec("x", ("batch", 3, "height"), "float16")
    assert TensorInfo.model_validate_json(TensorInfo.of(spec).model_dump_json()).spec == spec


def test_weights_beside_a_graph_are_part_of_its_digest(tmp_path: Path) -> None:
    graph = tmp_path / "g.onnx"
    graph.write_bytes(b"graph")
    alone = graph_digest(graph)
    (tmp_path / "g.onnx.data").write_bytes(b"weights")
    together = graph_digest(graph)
    (tmp_path / "g.onnx.data").write_bytes(b"Weights")
    (tmp_path / "other.data").write_bytes(b"not of this graph")
    assert len({alone, together, graph_digest(graph)}) == 3


def library(**members: int) -> TensorRTLibrary:
    module = SimpleNamespace(__version__="1", ComputeCapability=SimpleNamespace(__members__=members))
    return library_of("tensorrt_rtx" if members else "tensorrt", cast(TensorRTModule, module))


def test_a_library_that_names_architectures_builds_for_those_anywhere() -> None:
    rtx = library(NONE=0, CURRENT=1, SM120=120, SM80=80)
    assert rtx.named_targets == ("sm80", "sm120")
    assert rtx.ahead_of_time
    assert not rtx.timing_cache
    rtx.check_targets(("sm80", "sm120"), present=())
    with pytest.raises(
        TargetUnsupportedError, match="does not build for sm90, sm100; it builds for sm80, sm120"
    ):
        rtx.check_targets(("sm80", "sm90", "sm100"), present=("sm90",))


def test_a_library_that_does_not_builds_for_the_gpu_at_hand_alone() -> None:
    standard = library()
    assert standard.timing_cache
    standard.check_targets(("sm90",), present=("sm90",))
    for targets, present in [(("sm86",), ("sm90",)), (("sm86",), ()), (("sm86", "sm90"), ("sm86", "sm90"))]:
        with pytest.raises(TargetUnsupportedError, match="run the build on a machine with that GPU"):
            standard.check_targets(targets, present)
    with pytest.raises(TargetUnsupportedError, match="no GPU architecture"):
        standard.check_targets((), ("sm90",))


@pytest.mark.skipif(bool(present_gpus()), reason="the full library may be installed beside a GPU")
def test_an_absent_library_says_where_to_get_it() -> None:
    with pytest.raises(LibraryAbsentError, match="NVIDIA's TensorRT images"):
        load_library("tensorrt")


def no_driver(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@dataclass
class Driver:
    """libcuda as ctypes calls it, with these devices."""

    devices: list[tuple[str, int, int]]
    status: int = 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.devices)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = self.devices[device.value][0].encode()[: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = self.devices[device.value][{75: 1, 76: 2}[attribute]]
        return 0


def test_gpus_are_those_the_driver_lists() -> None:
    driver = Driver([("NVIDIA A10", 8, 6), ("NVIDIA H100", 9, 0)])
    assert present_gpus(lambda _: driver) == (Gpu(0, "NVIDIA A10", "sm86"), Gpu(1, "NVIDIA H100", "sm90"))
    assert present_gpus(lambda _: Driver([("broken", 8, 6)], status=100)) == ()
    assert present_gpus(no_driver) == ()


def found(*modules: str) -> Callable[[str], object | None]:
    return lambda name: name if name in modules else None


def test_backends_are_found_by_what_is_there() -> None:
    cpu, cuda = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    gpu = [Gpu(0, "NVIDIA A10", "sm86")]

    def told(find: Callable[[str], object | None], **here: Any) -> dict[str, tuple[bool, bool, str]]:
        return {one.name: (one.builds, one.runs, one.note) for one in available_backends(find=find, **here)}

    assert told(found(), gpus=[], providers=cpu) == {}
    assert told(found("onnxruntime", "tensorrt_rtx"), gpus=[], providers=cuda) == {
        "onnxruntime-cpu": (False, True, ""),
        "onnxruntime-cuda": (False, False, "no GPU"),
        "tensorrt_rtx": (True, False, "no GPU, no torch"),
    }
    assert told(found("onnxruntime", "tensorrt", "torch"), gpus=gpu, providers=cuda) == {
        "onnxruntime-cpu": (False, True, ""),
        "onnxruntime-cuda": (False, True, ""),
        "tensorrt": (True, True, ""),
    }


@given(st.lists(st.tuples(*[st.integers(1, 999)] * 3), min_size=1, max_size=5))
def test_a_range_survives_its_text(axes: list[tuple[int, int, int]]) -> None:
    low, best, high = zip(*(sorted(axis) for axis in axes), strict=True)
    shapes = ShapeRange(min=low, opt=best, max=high)
    assert parse_range(str(shapes)) == shapes
    one = "x".join(map(str, low))
    assert parse_range(one) == ShapeRange(min=low, opt=low, max=low)


@pytest.mark.parametrize(
    "text", ["", "1x", "1x0", "1x3:1x3", "1:2:3:4", "2:1:3", "1x2:1:1", "axb", "1 x 2", "-1"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ProfileError):
        parse_range(text)


def test_plans_of_before_there_were_stripped_ones_keep_their_addresses(
    key_for: Callable[..., PlanKey],
) -> None:
    key = key_for()
    told = key.model_dump(mode="json")
    del told["stripped"]
    assert PlanKey.model_validate(told).digest == key.digest
    assert hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest() == key.digest
    assert key_for(stripped=True).digest != key.digest


def test_the_command_for_a_graph_of_ones_own_names_file_name_and_shapes(profile: Profile) -> None:
    def command(graph: str, **more: Any) -> list[str]:
        return shlex.split(build_command(graph, ("sm86",), "fp16", "tensorrt_rtx", **more))

    end = ["--targets", "sm86", "--precisions", "fp16", "--library", "tensorrt_rtx"]
    begin = ["polysight", "engines", "build"]
    file = "/models/my nets/tiny.onnx"
    assert command("tiny") == [*begin, "tiny", *end]
    assert command("tiny", file=file) == [*begin, "--onnx", file, *end]
    shapes = ["--shape", "x=1x16:4x16:8x16"]
    assert command("other", file=file, profiles=(profile,), stripped=True) == [
        *begin,
        "--onnx",
        file,
        "--name",
        "other",
        *shapes,
        *end,
        "--stripped",
    ]
