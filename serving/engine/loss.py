"""Which failures mean that a device is lost to its process.

CUDA says of some errors that "the process must be terminated and relaunched": a kernel touched memory that is not its
own, ran into an assertion, or the GPU itself fell away (Xid). Every later call fails the same way, so that an engine is
done for, whatever is asked of it next. Running out of memory, a shape that does not fit or a refused recording fail one
batch and no more.

torch tells the error's number (`torch.AcceleratorError`); what other libraries raise, nvImageCodec and ONNX Runtime
among them, has it, or CUDA's words for it, in its text. Not seen on hardware.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from serving.engine.protocol import DeviceLostError, EngineError

FATAL_ERRORS: Final = {
    # The hardware: no longer there, or no longer to be trusted.
    46: "CUDA-capable device(s) is/are busy or unavailable",
    214: "uncorrectable ECC error encountered",
    220: "uncorrectable NVLink error detected during the execution",
    226: "Invalid access of peer GPU memory over nvlink or a hardware error",
    # What a kernel did.
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    # Others that share the device.
    810: "the MPS client has been terminated by the server",
    911: "an async error has occured in external entity outside of CUDA",
    # What a GPU that fell off the bus is reported as.
    999: "unknown error",
}
"""Number of the CUDA error (the same in the runtime and in the driver), and CUDA's own words for it."""

_NUMBERED = re.compile(r"\bCUDA(?: \w+){0,3}? (?:error|failure)\b[:' #]{1,6}(\d+)\b", re.IGNORECASE)
# "unknown error" says too little alone; torch writes "CUDA error: " before CUDA's words.
_WORDS = tuple(words if number != 999 else f"CUDA error: {words}" for number, words in FATAL_ERRORS.items())


def device_lost(error: BaseException) -> bool:
    """Whether `error`, of a library that uses CUDA, means that this process cannot use the device again."""
    if isinstance(error, DeviceLostError):
        return True
    number = getattr(error, "error_code", None)
    if isinstance(number, int) and number in FATAL_ERRORS:
        return True
    said = str(error)
    if any(int(found) in FATAL_ERRORS for found in _NUMBERED.findall(said)):
        return True
    return any(words in said for words in _WORDS)


@contextmanager
def cuda_explained(doing: str) -> Iterator[None]:
    """Errors of CUDA, which libraries raise as RuntimeError, in the words of an engine: DeviceLostError where they mean
    that, EngineError otherwise.
    """
    try:
        yield
    except RuntimeError as error:
        kind = DeviceLostError if device_lost(error) else EngineError
        raise kind(f"CUDA failed while {doing}: {error}") from error
