"""Our OCR against the `rapidocr` pipeline with the same checkpoints: how long, and is it the same text?

    python -m bench.ocr [--json] [--rounds 3] [--threads N] [IMAGE ...]

Both read the same files from bytes, in one process, taking turns image by image, on the same number of threads;
`rapidocr` otherwise as it ships. The first picture goes through both once before the clock runs. Default
pictures: the two photos in the ultralytics package, the photos of `tests/assets/photos`, and the drawn pages of
`bench.text_pages`. Rounds end early on a slow machine, so that the whole takes about two minutes.

- `ratio_wall`: the sum over pictures of our median seconds, divided by the same sum for rapidocr.
- `cer`: the lines of each side are put into one reading order (`services.ocr.reading_order` on their polygons)
  and joined by newlines, Unicode NFC, nothing else is normalised. Summed Levenshtein distance of ours from
  rapidocr's, divided by the summed length of rapidocr's.
- `split`: seconds a round in the three networks; ours counts the engines alone and calls the rest `other`, rapidocr's
  own stage clocks include its array work.

The last line of output is one JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import importlib.util
import json
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.text_pages import text_pages
from bench.timed_engine import TimedEngine
from services.ocr.geometry import Quad
from services.ocr.model import OcrModel, OcrParams
from services.ocr.prepare import prepared_model, read_charset
from services.ocr.reading_order import reading_order
from serving.engine import OnnxRuntimeEngine
from serving.image import decode_image
from serving.weights import WeightStore

# After the first, a round begins only if it can be expected to end within this many seconds of the start.
BUDGET_S = 110.0
PHOTOS = Path(__file__).parent.parent / "tests" / "assets" / "photos"


@dataclass(frozen=True)
class Read:
    """What one pipeline read in one picture: text in reading order, wall seconds, seconds by stage."""

    text: str
    wall: float
    split: Mapping[str, float]


Pipeline = Callable[[bytes], Read]


@dataclass
class _Times:
    text: str = ""
    walls: list[float] = field(default_factory=list)
    splits: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, read: Read) -> None:
        self.text = read.text
        self.walls.append(read.wall)
        self.splits.append(read.split)

    @property
    def wall(self) -> float:
        return statistics.median(self.walls)

    def stage(self, name: str) -> float:
        return statistics.median(split.get(name, 0.0) for split in self.splits)


def our_pipeline(threads: int) -> Pipeline:
    """File bytes to text through this project's model, as the service runs it, without the wire."""
    store = WeightStore()
    recognizer = prepared_model(store, "ppocrv6-rec")
    engines = {
        "det": TimedEngine(OnnxRuntimeEngine(prepared_model(store, "ppocrv6-det"), threads=threads)),
        "rec": TimedEngine(OnnxRuntimeEngine(recognizer, threads=threads)),
        "cls": TimedEngine(OnnxRuntimeEngine(store.fetch("ppocr-cls"), threads=threads, max_batch=32)),
    }
    model = OcrModel(engines["det"], engines["rec"], engines["cls"], read_charset(recognizer))
    params = OcrParams()

    def read(data: bytes) -> Read:
        before = {name: engine.seconds for name, engine in engines.items()}
        start = time.perf_counter()
        result = model.postprocess(model.infer([model.preprocess(decode_image(data), params)])[0], params)
        wall = time.perf_counter() - start
        split = {name: engine.seconds - before[name] for name, engine in engines.items()}
        size = np.array([result.width, result.height], dtype=np.float32)
        quads = [line.polygon * size for line in result.lines]
        return Read(_joined(quads, [line.text for line in result.lines]), wall, split)

    return read


def rapidocr_pipeline(threads: int) -> Pipeline:
    """The same through `rapidocr` with its own defaults, but for the number of threads and its log."""
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )

    def read(data: bytes) -> Read:
        start = time.perf_counter()
        output: Any = engine(data)  # a union by which stages ran; here all three did
        wall = time.perf_counter() - start
        if output.boxes is None or output.txts is None:
            return Read("", wall, {"det": wall})  # it does not say; without text there is only detection
        split = dict(zip(("det", "cls", "rec"), (part or 0.0 for part in output.elapse_list), strict=True))
        return Read(_joined(list(output.boxes), list(output.txts)), wall, split)

    return read


def _joined(quads: Sequence[Quad], texts: Sequence[str]) -> str:
    # Whole pixels on both sides, so that rounding cannot order equal boxes differently.
    rounded: list[Quad] = [np.rint(quad).astype(np.float32) for quad in quads]
    return unicodedata.normalize("NFC", "\n".join(texts[index] for index in reading_order(rounded)))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def default_pictures() -> dict[str, bytes]:
    """Photos and drawn pages by name."""
    photos = sorted(PHOTOS.glob("*.jpg"))
    package = importlib.util.find_spec("ultralytics")
    if package is not None and package.origin is not None:
        photos = sorted((Path(package.origin).parent / "assets").glob("*.jpg")) + photos
    return {photo.stem: photo.read_bytes() for photo in photos} | text_pages()


def compare(pictures: Mapping[str, bytes], threads: int, rounds: int) -> dict[str, Any]:
    """Run both over all pictures and sum up; prints a table. Seconds throughout."""
    pipelines = {"ours": our_pipeline(threads), "rapidocr": rapidocr_pipeline(threads)}
    times = {side: {name: _Times() for name in pictures} for side in pipelines}
    start = time.perf_counter()
    first = next(iter(pictures.values()))
    for pipeline in pipelines.values():
        pipeline(first)
    done = 0
    while done < rounds:
        round_start = time.perf_counter()
        for name, data in pictures.items():
            for side, pipeline in pipelines.items():
                times[side][name].add(pipeline(data))
        done += 1
        now = time.perf_counter()
        if now - start + (now - round_start) > BUDGET_S:
            break
    errors = characters = 0
    print(f"{'picture':<22}{'rapidocr s':>11}{'ours s':>9}{'ratio':>7}{'edits':>7}{'chars':>7}")
    for name in pictures:
        ours, theirs = times["ours"][name], times["rapidocr"][name]
        edits = edit_distance(ours.text, theirs.text)
        errors += edits
        characters += len(theirs.text)
        print(
            f"{name:<22}{theirs.wall:>11.3f}{ours.wall:>9.3f}{ours.wall / theirs.wall:>7.2f}"
            f"{edits:>7}{len(theirs.text):>7}"
        )
    walls = {side: sum(entry.wall for entry in by_name.values()) for side, by_name in times.items()}
    split = {
        side: {
            stage: sum(entry.stage(stage) for entry in by_name.values()) for stage in ("det", "cls", "rec")
        }
        for side, by_name in times.items()
    }
    for side, stages in split.items():
        stages["other"] = walls[side] - sum(stages.values())
        print(f"{side:<10}" + "".join(f"  {stage} {seconds:6.3f} s" for stage, seconds in stages.items()))
    return {
        "ratio_wall": round(walls["ours"] / walls["rapidocr"], 4),
        "cer": round(errors / max(characters, 1), 5),
        "wall_s": {side: round(wall, 3) for side, wall in walls.items()},
        "split_s": {
            side: {stage: round(seconds, 3) for stage, seconds in stages.items()}
            for side, stages in split.items()
        },
        "pictures": len(pictures),
        "characters": characters,
        "edits": errors,
        "rounds": done,
        "threads": threads,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ocr", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("images", nargs="*", type=Path, help="picture files instead of the default set")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds over all pictures")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for both sides")
    options = parser.parse_args(arguments)
    pictures = {image.name: image.read_bytes() for image in options.images} or default_pictures()
    stdout = sys.stdout
    if options.json:
        sys.stdout = sys.stderr
    try:
        summary = compare(pictures, options.threads, options.rounds)
    finally:
        sys.stdout = stdout
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
