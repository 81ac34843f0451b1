"""The way of one picture through the OCR networks: each on a device thread of its own, array work in the pool.

Detection takes pictures, the angle classifier and recognition take lines: those of all requests that wait go into
common batches, recognition's by width. Cutting lines out, scaling them and spelling them happens in the pool, so that
no network waits for array work, and while one reads the lines of a picture another finds those of the next.

A picture that is alone has nobody to wait for or to hold up: what surrounds a network is then done on that network's
thread, as far as it stays alone, which saves a dozen hand-overs between threads.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.ocr.ctc import Reading, Steps
from services.ocr.model import Crop, OcrModel, OcrParams, Prepared, Result, line_images, line_up
from services.ocr.recognition import LineInput, PreparedLine, plan_batches
from serving.batcher import Batched, Batcher
from serving.errors import QueueFullError, ShuttingDownError
from serving.expert import by_pixels, by_shape, in_pool, on_device, time_left
from serving.image import ImageLimits, decode_image
from serving.preprocess.selection import Decode
from serving.telemetry.metrics import Metrics
from serving.timings import StageTimings

T = TypeVar("T")
R = TypeVar("R")

Left: TypeAlias = Callable[[], float | None]
"""Seconds until the caller's deadline, None without one; raises DeadlineUnreachableError once it has passed."""

Run: TypeAlias = Callable[[Sequence[T]], Sequence[R]]
"""A batch on a network, for who visits its thread."""

Map: TypeAlias = NDArray[np.float32]
"""(h, w): how sure the detector is of text, for each pixel of its input."""

LINES_AT_ONCE = 64
"""Lines of one picture that are scaled and submitted at a time: a page of 400 would be 70 MB of inputs."""

_RETRY_UNKNOWN_S = 0.5


@dataclass
class _Spent:
    """Seconds of one picture, added up as it goes."""

    queue_s: float = 0.0
    preprocess_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0


class OcrStages:
    """The batchers and threads of one `OcrModel`.

    `max_batch` pictures share a detector run, `max_lines` lines a run of the other two; of pictures that are anywhere
    on their way there are at most `max_batch` + `max_queue`. `workers` threads do everything else.
    `decode` makes pictures of files, on the host unless told otherwise.
    """

    def __init__(
        self,
        model: OcrModel,
        *,
        metrics: Metrics,
        max_batch: int,
        max_lines: int,
        max_queue: int,
        workers: int = 2,
        decode: Decode = decode_image,
    ) -> None:
        self._model = model
        self._decode = decode
        self._metrics = metrics.batcher(lambda: self._detector.queued)
        self._detector: Batcher[Prepared, Map] = Batcher(
            self._metrics.watching(model.detect),
            max_batch=max_batch,
            max_queue=max_batch + max_queue,
            cost=by_pixels,
            group=by_shape,
        )
        # How many lines wait is bounded by how many pictures are on their way.
        lines = (max_batch + max_queue) * LINES_AT_ONCE * 4
        self._classifier: Batcher[NDArray[np.float32], bool] | None = None
        if model.classifier is not None:
            self._classifier = Batcher(model.classifier.run, max_batch=max_lines, max_queue=lines)
        self._recognizer: Batcher[LineInput, Steps] = Batcher(
            model.recognizer.run,
            max_batch=max_lines,
            max_queue=lines,
            cost=lambda line: float(line.width),
            max_cost=float(model.recognizer.buckets.per_run),
            group=lambda line: line.width,
        )
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="stage")
        self._max_lines = max_lines
        self._most = max_batch + max_queue
        self._inside = 0
        self._typical_s = 0.0
        self._closing = False

    async def run(
        self, image_bytes: bytes, params: OcrParams, timeout_s: float | None = None
    ) -> tuple[Result, StageTimings]:
        """Read one image file. `timeout_s` is what is left of the caller's deadline, in seconds.

        Cancelling the task leaves nothing behind. Raises an Image*Error, DeadlineUnreachableError, QueueFullError,
        ShuttingDownError, or whatever a stage raises.
        """
        if self._closing:
            raise ShuttingDownError("the server is shutting down and takes no new work")
        if self._inside >= self._most:
            raise QueueFullError(
                f"the queue is full with {self._inside} requests",
                metadata={"queued": str(self._inside)},
                retry_after_s=self._typical_s or _RETRY_UNKNOWN_S,
            )
        self._inside += 1
        started = time.perf_counter()
        try:
            result, timings = await self._through(image_bytes, params, timeout_s, started)
        finally:
            self._inside -= 1
        # What one more picture costs while others are on their way.
        took_s = (time.perf_counter() - started) / (self._inside + 1)
        self._typical_s += (took_s - self._typical_s) * (0.1 if self._typical_s else 1.0)
        self._metrics.on_stages(timings)
        return result, timings

    async def close(self) -> None:
        """Finish what was accepted and give the threads back; new images are refused as SHUTTING_DOWN."""
        self._closing = True
        for batcher in (self._detector, self._classifier, self._recognizer):
            if batcher is not None:
                await batcher.close()
        self._pool.shutdown(wait=False)

    def _alone_at(self, batcher: Batcher[Any, Any]) -> bool:
        return self._alone() and batcher.idle

    def _alone(self) -> bool:
        return self._inside == 1

    async def _through(
        self, image_bytes: bytes, params: OcrParams, timeout_s: float | None, started: float
    ) -> tuple[Result, StageTimings]:
        model, spent = self._model, _Spent()

        def left() -> float | None:
            return time_left(timeout_s, started)

        prepared, crops, batch_size = await self._find(image_bytes, params, left, spent)
        proposed = [False] * len(crops)
        if params.use_angle and self._classifier is not None:
            proposed = await self._on_their_head(crops, left, spent)
        images = line_images(crops, proposed)
        readings: list[Reading] = []

        def finish(last: list[Reading]) -> Result:
            return model.postprocess(line_up(prepared, crops, proposed, readings + last), params)

        final = max(len(images) - 1, 0) // LINES_AT_ONCE * LINES_AT_ONCE
        for first in range(0, final, LINES_AT_ONCE):
            readings += await self._read(images[first : first + LINES_AT_ONCE], left, spent, list)
        result = await self._read(images[final:], left, spent, finish) if images else finish([])
        return result, StageTimings(
            queue_s=spent.queue_s,
            preprocess_s=spent.preprocess_s,
            inference_s=spent.inference_s,
            postprocess_s=spent.postprocess_s,
            batch_size=batch_size,
        )

    async def _find(
        self, image_bytes: bytes, params: OcrParams, left: Left, spent: _Spent
    ) -> tuple[Prepared, list[Crop], int]:
        """The picture, the regions cut out of it, and how many pictures shared the run."""
        model = self._model

        def prepare() -> Prepared:
            left()  # the pool may have been busy for longer than the caller has time
            return model.preprocess(self._decode(image_bytes, ImageLimits()), params)

        def find(run: Run[Prepared, Map]) -> tuple[Prepared, Map, list[Crop] | None]:
            begun = time.perf_counter()
            prepared = prepare()
            ready = time.perf_counter()
            (found,) = run([prepared])
            told = time.perf_counter()
            crops = model.cut(prepared, found) if self._alone() else None
            spent.preprocess_s, spent.inference_s = ready - begun, told - ready
            spent.postprocess_s = time.perf_counter() - told
            return prepared, found, crops

        batch_size = 1
        if self._alone_at(self._detector):
            prepared, found, crops = await on_device(self._detector, find, left)
            if crops is not None:
                return prepared, crops, batch_size
        else:
            prepared, spent.preprocess_s = await in_pool(self._pool, prepare)
            batched = await self._detector.submit(prepared, timeout_s=left())
            found, batch_size = batched.result, batched.batch_size
            spent.queue_s, spent.inference_s = batched.queue_s, batched.run_s
        cut, cutting_s = await in_pool(self._pool, lambda: model.cut(prepared, found))
        spent.postprocess_s += cutting_s
        return prepared, cut, batch_size

    async def _on_their_head(self, crops: Sequence[Crop], left: Left, spent: _Spent) -> list[bool]:
        classifier, batcher = self._model.classifier, self._classifier
        if classifier is None or batcher is None or not crops:
            return [False] * len(crops)

        def prepare() -> list[NDArray[np.float32]]:
            return [classifier.prepare(crop.image) for crop in crops]

        def classify(run: Run[NDArray[np.float32], bool]) -> list[bool]:
            begun = time.perf_counter()
            inputs = prepare()
            ready = time.perf_counter()
            turned: list[bool] = []
            for first in range(0, len(inputs), self._max_lines):
                turned += run(inputs[first : first + self._max_lines])
            spent.postprocess_s += ready - begun
            spent.inference_s += time.perf_counter() - ready
            return turned

        if self._alone_at(batcher):
            return await on_device(batcher, classify, left)
        inputs, seconds = await in_pool(self._pool, prepare)
        spent.postprocess_s += seconds
        timeout_s = left()
        return await _all([batcher.submit(one, timeout_s=timeout_s) for one in inputs], spent)

    async def _read(
        self,
        images: Sequence[NDArray[np.uint8]],
        left: Left,
        spent: _Spent,
        finish: Callable[[list[Reading]], T],
    ) -> T:
        """What `finish` makes of what `images` say."""
        recognizer = self._model.recognizer
        lines: list[PreparedLine] = []
        inputs: list[LineInput] = []
        steps: dict[int, Steps] = {}

        def prepare() -> None:
            lines.extend(recognizer.prepare(image) for image in images)
            inputs.extend(given for line in lines for given in line.inputs)

        def spell() -> T:
            known = [steps[index] for index in range(len(inputs))]
            return finish([recognizer.reading(line, mine) for line, mine in _by_line(lines, known)])

        def read(run: Run[LineInput, Steps]) -> tuple[T] | None:
            """All of it, or as much as can be done alone."""
            begun = time.perf_counter()
            prepare()
            ready = time.perf_counter()
            spent.postprocess_s += ready - begun
            columns = [given.columns for given in inputs]
            for batch in plan_batches(columns, recognizer.buckets, max_batch=self._max_lines):
                if not self._alone():
                    break
                steps.update(zip(batch.indices, run([inputs[i] for i in batch.indices]), strict=True))
            told = time.perf_counter()
            spent.inference_s += told - ready
            if len(steps) < len(inputs):
                return None
            finished = spell()
            spent.postprocess_s += time.perf_counter() - told
            return (finished,)

        if self._alone_at(self._recognizer):
            if (finished := await on_device(self._recognizer, read, left)) is not None:
                return finished[0]
        else:
            _, scaling_s = await in_pool(self._pool, prepare)
            spent.postprocess_s += scaling_s
        timeout_s = left()
        rest = [index for index in range(len(inputs)) if index not in steps]
        told_now = await _all([self._recognizer.submit(inputs[i], timeout_s=timeout_s) for i in rest], spent)
        steps.update(zip(rest, told_now, strict=True))
        result, spelling_s = await in_pool(self._pool, spell)
        spent.postprocess_s += spelling_s
        return result


def _by_line(lines: Sequence[PreparedLine], steps: Sequence[Steps]) -> list[tuple[PreparedLine, list[Steps]]]:
    rest = iter(steps)
    return [(line, list(itertools.islice(rest, len(line.inputs)))) for line in lines]


async def _all(submitted: Sequence[Awaitable[Batched[T]]], spent: _Spent) -> list[T]:
    """Every result in order. If one fails or the caller leaves, the others are withdrawn."""
    if not submitted:
        return []
    begun = time.perf_counter()
    tasks = [asyncio.ensure_future(one) for one in submitted]
    try:
        done = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    waited_s = min(one.queue_s for one in done)
    spent.queue_s += waited_s
    spent.inference_s += time.perf_counter() - begun - waited_s
    return [one.result for one in done]
