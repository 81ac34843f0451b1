"""Decoding and preparing on a GPU against the host. Not run where there is none, which so far is everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.engine.tensorrt.gpu import present_gpus
from serving.image import ImageLimits, decode_image
from serving.preprocess import Recipe
from serving.preprocess.codec import codec_installed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not present_gpus(), reason="no GPU"),
    pytest.mark.skipif(not codec_installed(), reason="no nvImageCodec"),
]

PHOTOS = sorted((Path(__file__).parents[3] / "assets" / "photos").glob("*.jpg"))


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_the_device_decodes_and_prepares_as_the_host_does(photo: Path) -> None:
    """nvJPEG and libjpeg-turbo transform and round differently: two levels on average, before and after scaling."""
    import torch

    from serving.engine.tensorrt.cuda import CudaDevice
    from serving.preprocess.device import DevicePicture, open_preparation
    from serving.preprocess.tensors import prepare

    data, preparation, device = photo.read_bytes(), open_preparation(), CudaDevice()
    picture = preparation.decode(data, ImageLimits())
    assert isinstance(picture, DevicePicture)
    host = decode_image(data)
    torch.cuda.synchronize()
    assert np.abs(picture.pixels.cpu().numpy().astype(int) - host).mean() < 2
    recipe = Recipe("antialiased", 384, 384, 384, 384, (0,) * 3, (1,) * 3)
    expected = prepare(torch.from_numpy(host), recipe).numpy()
    with device.current():
        buffer = device.buffer(2 * expected.nbytes)
        # Not at the beginning, as the second row of a batch would be.
        picture.prepare(recipe).copy_to(buffer, expected.nbytes)
        buffer.download(2 * expected.nbytes)
        device.synchronize()
    found = buffer.host((2, *expected.shape), "float32")[1]
    assert np.abs(found - expected).mean() < 2
