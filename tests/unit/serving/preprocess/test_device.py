"""Which files the device decodes, and what becomes of the others, with a codec of host memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from serving.engine import DeviceLostError, EngineError, FakeEngine, TensorSpec
from serving.engine.rows import run_rows
from serving.engine.stacking import BatchBuffer
from serving.engine.tensorrt.device import Buffer, PlacedTensor
from serving.errors import ImageCorruptError, ImageTooLargeError, PolysightError
from serving.image import ImageLimits, decode_image
from serving.preprocess import Recipe
from serving.preprocess.codec import load_codec
from serving.preprocess.device import DevicePicture, DevicePreparation, open_preparation, tried
from serving.preprocess.jpeg import device_jpeg

LIMITS = ImageLimits()
RECIPE = Recipe("bilinear", 8, 8, 8, 8, (0,) * 3, (255,) * 3)


def file(mode: str = "RGB", format: str = "JPEG", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    written = io.BytesIO()
    picture = Image.fromarray(rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)).convert(mode)
    picture.save(written, format, **options)
    return written.getvalue()


def turned_file(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(exif=exif)


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
        raise AssertionError("not copied here")


class HostLane:
    handle = 7

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def place(self, tensor: torch.Tensor) -> PlacedTensor:
        return HostRow(tensor)


@dataclass
class HostCodec:
    """Decodes as stored, by Pillow; `answer` is what it gives or raises instead. `asked`: threads by decoder."""

    answer: Callable[[], Any] | None = None
    made: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def DecodeParams(self, *, apply_exif_orientation: bool, allow_any_depth: bool) -> Any:
        assert not apply_exif_orientation
        assert not allow_any_depth
        return "as stored"

    def Decoder(self, *, device_id: int, max_num_cpu_threads: int, options: str) -> Any:
        number = len(self.made)
        self.made.append({"device": device_id, "threads": max_num_cpu_threads, "options": options})

        def decode(src: bytes, params: Any, cuda_stream: int) -> Any | None:
            assert (params, cuda_stream) == ("as stored", HostLane.handle)
            self.asked.append((number, threading.get_ident()))
            if self.answer is not None:
                return self.answer()
            return torch.from_numpy(np.array(Image.open(io.BytesIO(src)).convert("RGB")))

        return SimpleNamespace(decode=decode)


def preparation(codec: HostCodec) -> DevicePreparation:
    return DevicePreparation(codec, HostLane, index=1)


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (file(), True),
        (file(progressive=True), True),
        (file("L"), True),
        (file(subsampling=0), True),
        (file() + b"and more", True),
        (turned_file(6), True),
        (file("CMYK"), False),
        (file(keep_rgb=True), False),
        (file()[:-200], False),
        (file(format="PNG"), False),
        (file(format="WebP"), False),
        (file("RGBA", "PNG"), False),
        (file("I;16", "PNG"), False),
    ],
)
def test_only_plain_jpeg_is_for_the_device(data: bytes, taken: bool) -> None:
    assert (device_jpeg(data, LIMITS) is not None) == taken


def test_what_the_headers_refuse_reaches_no_decoder() -> None:
    codec = HostCodec()
    for data, limits, error in [
        (file(), ImageLimits(max_side=39), ImageTooLargeError),
        (file(), ImageLimits(max_bytes=100), ImageTooLargeError),
        (b"\xff\xd8\xff", LIMITS, ImageCorruptError),
        (b"no picture", LIMITS, PolysightError),
        (file()[:-200], LIMITS, ImageCorruptError),
    ]:
        with pytest.raises(error):
            preparation(codec).decode(data, limits)
    assert codec.asked == []


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 0, 9, "x"])
def test_a_picture_of_the_device_is_upright(orientation: object) -> None:
    data = turned_file(orientation) if orientation != "x" else file()
    found = preparation(HostCodec()).decode(data, LIMITS)
    assert isinstance(found, DevicePicture)
    host = decode_image(data)
    assert found.shape == host.shape
    np.testing.assert_array_equal(found.pixels.numpy(), host)
    np.testing.assert_array_equal(found.to_host(), host)
    assert found.to_host().flags.c_contiguous
    np.testing.assert_array_equal(found.exact(), host)
    row = found.prepare(RECIPE)
    assert (row.shape, row.dtype) == ((3, 8, 8), "float32")


@pytest.mark.parametrize(
    "answer", [lambda: None, lambda: torch.zeros(2, 2, 3, dtype=torch.uint8), lambda: torch.zeros(24, 40, 3)]
)
def test_what_the_device_fails_to_decode_the_host_decodes(answer: Callable[[], Any]) -> None:
    found = preparation(HostCodec(answer)).decode(file(), LIMITS)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, decode_image(file()))


def test_a_picture_too_large_for_the_device_is_decoded_by_the_host() -> None:
    codec = HostCodec()
    limited = DevicePreparation(codec, HostLane, max_pixels=24 * 40 - 1)
    np.testing.assert_array_equal(limited.decode(file(), LIMITS), decode_image(file()))
    assert codec.asked == []
    assert isinstance(
        DevicePreparation(codec, HostLane, max_pixels=24 * 40).decode(file(), LIMITS), DevicePicture
    )


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("CUDA error: out of memory", EngineError),
        ("CUDA error: an illegal memory access was encountered", DeviceLostError),
    ],
)
def test_a_device_that_fails_is_an_error_of_the_engine(said: str, error: type[EngineError]) -> None:
    def fails() -> Any:
        raise RuntimeError(said)

    with pytest.raises(EngineError, match=f"CUDA failed while decoding a picture: {said}") as caught:
        preparation(HostCodec(fails)).decode(file(), LIMITS)
    assert type(caught.value) is error


def test_what_is_found_to_work_is_used() -> None:
    made = preparation(HostCodec())
    assert tried(lambda: made) is made


def refused() -> Any:
    raise TypeError("unexpected argument")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: None, "does not decode JPEG"),
        (lambda: torch.zeros(64, 64, 3, dtype=torch.uint8), r"a grey of 128 as \[0, 0, 0\]"),
        (refused, "unexpected argument"),
    ],
)
def test_what_does_not_work_is_said_before_anything_is_served(answer: Callable[[], Any], said: str) -> None:
    with pytest.raises(EngineError, match=f"does not work: .*{said}.* DEVICE_PREPARATION=false"):
        tried(lambda: preparation(HostCodec(answer)))


def test_each_thread_has_a_decoder_of_its_own() -> None:
    codec = HostCodec()
    shared = preparation(codec)
    threads = [
        threading.Thread(target=lambda: [shared.decode(file(), LIMITS) for _ in range(3)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(codec.made) == 3
    assert len(codec.asked) == 9
    assert len(set(codec.asked)) == 3
    assert codec.made[0] == {"device": 1, "threads": 1, "options": ":fancy_upsampling=1"}


def test_an_engine_that_takes_no_rows_says_so() -> None:
    spec = (TensorSpec("x", ("batch", 3, 8, 8), "float32"),)
    engine = FakeEngine(spec, spec, dict)
    row = np.ones((3, 8, 8), np.float32)
    buffers = {"x": BatchBuffer()}
    assert run_rows(engine, {"x": [row, row]}, buffers)["x"].shape == (2, 3, 8, 8)
    with pytest.raises(EngineError, match="takes no pictures that were prepared on a device"):
        run_rows(engine, {"x": [row, HostRow(torch.ones(3, 8, 8))]}, buffers)


@pytest.mark.skipif(load_codec() is not None, reason="nvImageCodec is installed")
def test_where_the_codec_is_absent_the_error_says_what_to_install() -> None:
    with pytest.raises(EngineError, match="install nvidia-nvimgcodec-cu12"):
        open_preparation()
