"""What the vision experts share: the way of one image through decoding, preprocessing, device and
postprocessing.

`__main__.py` makes the `Stages` of its model, `service.py` sends each image through them:

    stages = Stages(model.infer, metrics=metrics, max_batch=engine.max_batch, max_queue=64)

    result, timings = await stages.run(
        request.image.data,
        lambda image: model.preprocess(image, params),
        lambda raw: model.postprocess(raw, params),
        time_left_s(context),
    )
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import grpc

from serving.batcher import Batcher
from serving.engine.rows import Row
from serving.errors import DeadlineUnreachableError, ShuttingDownError
from serving.image import ImageLimits, decode_image
from serving.preprocess import Picture
from serving.preprocess.selection import Decode
from serving.telemetry.metrics import Metrics
from serving.timings import StageTimings

Prepared = TypeVar("Prepared")
Raw = TypeVar("Raw")
Result = TypeVar("Result")
T = TypeVar("T")


class HasTensor(Protocol):
    """A prepared image that is one tensor, without the batch axis."""

    @property
    def tensor(self) -> Row:
        """Channels, rows, columns; on the host or on the device."""
        ...


def by_shape(prepared: HasTensor) -> tuple[int, ...]:
    """The batcher's `group` where only tensors of one shape can share a run."""
    return prepared.tensor.shape


def by_pixels(prepared: HasTensor) -> float:
    """The batcher's `cost`: megapixels of the network's input."""
    height, width = prepared.tensor.shape[-2:]
    return float(height * width / 1e6)


class Stages(Generic[Prepared, Raw]):
    """The batcher, thread pool and counters of one expert.

    `infer` is the blocking model call, n prepared images to n raw outputs; `max_batch`, `max_queue`, `cost`,
    `max_cost` and `group` are the batcher's (`by_pixels` and `by_shape` suit what holds one tensor).
    `workers` threads decode, preprocess and postprocess. `decode` makes pictures of files, on the host unless
    `serving.preprocess.selection` says otherwise.
    """

    def __init__(
        self,
        infer: Callable[[Sequence[Prepared]], Sequence[Raw]],
        *,
        metrics: Metrics,
        max_batch: int,
        max_queue: int,
        workers: int = 2,
        cost: Callable[[Prepared], float] | None = None,
        max_cost: float | None = None,
        group: Callable[[Prepared], Hashable] | None = None,
        limits: ImageLimits | None = None,
        decode: Decode = decode_image,
    ) -> None:
        self._metrics = metrics.batcher(lambda: self._batcher.queued)
        self._batcher: Batcher[Prepared, Raw] = Batcher(
            self._metrics.watching(infer),
            max_batch=max_batch,
            max_queue=max_queue,
            cost=cost,
            max_cost=max_cost,
            group=group,
        )
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="stage")
        self._limits = limits
        self._decode = decode
        self._inside = 0
        self._closing = False

    async def run(
        self,
        image_bytes: bytes,
        preprocess: Callable[[Picture], Prepared],
        postprocess: Callable[[Raw], Result],
        timeout_s: float | None = None,
    ) -> tuple[Result, StageTimings]:
        """Take one image file through all stages; see `run_stages`, and `visit_stages` for one that is alone."""
        if self._closing:
            raise ShuttingDownError("the server is shutting down and takes no new work")
        self._inside += 1
        try:
            if self._alone() and self._batcher.idle:
                result, timings = await visit_stages(
                    image_bytes,
                    preprocess,
                    self._batcher,
                    postprocess,
                    self._pool,
                    timeout_s,
                    alone=self._alone,
                    limits=self._limits,
                    decode=self._decode,
                )
            else:
                result, timings = await run_stages(
                    image_bytes,
                    preprocess,
                    self._batcher,
                    postprocess,
                    self._pool,
                    timeout_s,
                    limits=self._limits,
                    decode=self._decode,
                )
        finally:
            self._inside -= 1
        self._metrics.on_stages(timings)
        return result, timings

    def _alone(self) -> bool:
        return self._inside == 1

    async def close(self) -> None:
        """Finish what was accepted and give the threads back; new images are refused as SHUTTING_DOWN."""
        self._closing = True
        await self._batcher.close()
        self._pool.shutdown(wait=False)


async def run_stages(
    image_bytes: bytes,
    preprocess: Callable[[Picture], Prepared],
    batcher: Batcher[Prepared, Raw],
    postprocess: Callable[[Raw], Result],
    pool: Executor,
    timeout_s: float | None = None,
    *,
    limits: ImageLimits | None = None,
    decode: Decode = decode_image,
) -> tuple[Result, StageTimings]:
    """Take one image file through all stages; both pure stages run in `pool`, the device belongs to
    `batcher`.

    `timeout_s` is what is left of the caller's deadline, in seconds. Cancelling the task leaves nothing
    behind: a stage that has not started never does, one that runs has its result thrown away. Raises an
    Image*Error, DeadlineUnreachableError, QueueFullError, ShuttingDownError, or whatever a stage raises.
    """
    started = time.perf_counter()

    def prepare() -> Prepared:
        # The pool may have been busy for longer than the caller has time.
        time_left(timeout_s, started)
        return preprocess(decode(image_bytes, limits or ImageLimits()))

    prepared, preprocess_s = await in_pool(pool, prepare)
    batched = await batcher.submit(prepared, timeout_s=time_left(timeout_s, started))
    result, postprocess_s = await in_pool(pool, lambda: postprocess(batched.result))
    return result, StageTimings(
        queue_s=batched.queue_s,
        preprocess_s=preprocess_s,
        inference_s=batched.run_s,
        postprocess_s=postprocess_s,
        batch_size=batched.batch_size,
    )


async def visit_stages(
    image_bytes: bytes,
    preprocess: Callable[[Picture], Prepared],
    batcher: Batcher[Prepared, Raw],
    postprocess: Callable[[Raw], Result],
    pool: Executor,
    timeout_s: float | None = None,
    *,
    alone: Callable[[], bool],
    limits: ImageLimits | None = None,
    decode: Decode = decode_image,
) -> tuple[Result, StageTimings]:
    """As `run_stages`, for an image that finds `batcher` idle: all stages in one go on the device's thread.

    The last stage goes to `pool` all the same if by then the image is not `alone` any more: the device is wanted.
    Raises as `run_stages` does.
    """
    started = time.perf_counter()

    def work(
        run: Callable[[Sequence[Prepared]], Sequence[Raw]],
    ) -> tuple[Raw, StageTimings, tuple[Result, float] | None]:
        begun = time.perf_counter()
        time_left(timeout_s, started)
        prepared = preprocess(decode(image_bytes, limits or ImageLimits()))
        ready = time.perf_counter()
        (raw,) = run([prepared])
        told = time.perf_counter()
        timings = StageTimings(begun - started, ready - begun, told - ready, 0.0, batch_size=1)
        if not alone():
            return raw, timings, None
        return raw, timings, (postprocess(raw), time.perf_counter() - told)

    raw, timings, finished = await on_device(batcher, work, lambda: time_left(timeout_s, started))
    result, postprocess_s = finished or await in_pool(pool, lambda: postprocess(raw))
    return result, replace(timings, postprocess_s=postprocess_s)


async def on_device(
    batcher: Batcher[Prepared, Raw],
    work: Callable[[Callable[[Sequence[Prepared]], Sequence[Raw]]], T],
    left: Callable[[], float | None],
) -> T:
    """`Batcher.visit` with this call's context (request id, span) for `work`; `left` says what is left of its deadline.

    Once the task is cancelled nothing is run any more, and `work` ends where it runs something or has just done so.
    """
    gone = threading.Event()

    def still_wanted() -> None:
        if gone.is_set():
            raise asyncio.CancelledError

    def visit(run: Callable[[Sequence[Prepared], float | None], Sequence[Raw]]) -> T:
        def run_wanted(items: Sequence[Prepared]) -> Sequence[Raw]:
            still_wanted()
            results = run(items, left())
            still_wanted()
            return results

        return work(run_wanted)

    context = contextvars.copy_context()
    try:
        return await batcher.visit(lambda run: context.run(visit, run))
    except asyncio.CancelledError:
        gone.set()
        raise


def time_left_s(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds until the caller's deadline, None without one. grpc.aio does not pass it on by itself."""
    remaining: float | None = context.time_remaining()
    return remaining


async def in_pool(pool: Executor, stage: Callable[[], T]) -> tuple[T, float]:
    """Run `stage` in `pool` with this call's context (request id, span); its result and the seconds it took."""

    def timed() -> tuple[T, float]:
        begun = time.perf_counter()
        result = stage()
        return result, time.perf_counter() - begun

    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(timed))


def time_left(timeout_s: float | None, started: float) -> float | None:
    if timeout_s is None:
        return None
    left = timeout_s - (time.perf_counter() - started)
    if left <= 0:
        raise DeadlineUnreachableError("the deadline passed before the image reached the device")
    return left
