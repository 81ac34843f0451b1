"""Which GPUs this machine has, asked of the driver itself: no torch, no CUDA toolkit, nothing imported.

Not run on hardware: where there is no driver, `present_gpus` has only ever answered "none".
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.engine.tensorrt.targets import target_of

_DRIVER = "libcuda.so.1"
# CUdevice_attribute of cuda.h
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One device as the driver counts them; `target` is its architecture, such as `sm86`."""

    index: int
    name: str
    target: str


def present_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> tuple[Gpu, ...]:
    """The devices that the driver lists; none where there is no driver or it does not start."""
    try:
        driver = load(_DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_describe(driver, index) for index in range(count.value))


def _describe(driver: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return Gpu(index, name.value.decode(errors="replace"), target_of(major.value, minor.value))
