"""Does serving lose accuracy? Average precision through the running services beside the trainer's own, same photos.

    python -m bench.accuracy --images DIR --annotations instances.json --json

Starts the detection and the panoptic service as processes of their own, sends every photo over gRPC, and evaluates
boxes (detection) and masks (the panoptic expert's instances, before overlaps are resolved) with pycocotools. Beside
that, the same checkpoints under ultralytics in this process: `predict(conf=0.001, iou=0.7, max_det=300, imgsz=640,
retina_masks=True)`, all else its defaults (a picture keeps its ratio, one-to-many head, suppression per class),
evaluated the same way. The numbers should agree within 0.01.

The annotations are any file in COCO's format whose categories are those of COCO, by name or, where no name fits, by the
order of their ids; photos that it lists and the folder lacks are left out. The last line is one JSON object:
`box_ap_served`, `box_ap_in_process`, `mask_ap_served`, `mask_ap_in_process` (AP at IoU 0.50:0.95), `mask_ap_partition`
(of the segments, after overlaps), `images`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What is compared with shall neither call home nor install packages.
os.environ.update({"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"})

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from bench.expert_process import ExpertProcess
from polysight.common.v1 import geometry_pb2, image_pb2
from polysight.vision.v1 import detection_pb2, detection_pb2_grpc, panoptic_pb2, panoptic_pb2_grpc
from serving.coco import COCO_80
from serving.settings import DEFAULT_MAX_MESSAGE_BYTES
from serving.weights import WeightStore
from serving.weights.yolo_export import unexpected_globals

LEAST_SCORE = 0.001
MOST_OBJECTS = 300

Found = dict[str, Any]
"""One detection as pycocotools reads it: image_id, category_id, score, bbox (xywh, pixels) or segmentation (RLE)."""


class Truth:
    """An annotation file, and the photos of it that are there."""

    def __init__(self, annotations: Path, images: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(str(annotations))
        self._category_of = _categories(self._coco.dataset["categories"])
        listed = {image["id"]: images / image["file_name"] for image in self._coco.dataset["images"]}
        self.photos = {image_id: path for image_id, path in listed.items() if path.is_file()}
        if not self.photos:
            raise FileNotFoundError(
                f"none of the {len(listed)} photos that {annotations} lists is in {images}"
            )

    def found(self, image_id: int, label: int, score: float, **where: Any) -> Iterator[Found]:
        """One detection, unless the file does not know the class."""
        if label in self._category_of:
            yield {"image_id": image_id, "category_id": self._category_of[label], "score": score, **where}

    def average_precision(self, found: Sequence[Found], kind: str) -> float:
        """AP at IoU 0.50:0.95 over all areas; `kind` is "bbox" or "segm"."""
        if not found:
            return 0.0
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._coco, self._coco.loadRes(list(found)), kind)
            evaluation.params.imgIds = sorted(self.photos)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0])


def _categories(listed: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """From the model's class indices to the category ids of a file."""
    ids = {category["name"]: category["id"] for category in listed}
    by_name = {index: ids[name] for index, name in enumerate(COCO_80) if name in ids}
    if by_name:
        return by_name
    if len(ids) != len(COCO_80):
        raise ValueError(f"its {len(ids)} categories are not those of COCO")
    return dict(enumerate(sorted(ids.values())))


@dataclass(frozen=True)
class Accuracy:
    """APs of one way to run the models; `partition` is that of the segments after overlaps, where there are any."""

    box: float
    mask: float
    partition: float | None = None


@contextlib.contextmanager
def expert(name: str, service: str) -> Iterator[grpc.Channel]:
    """The process `services.NAME` on a free port, warmed up, and a channel to it; ends with it."""
    options = [("grpc.max_receive_message_length", DEFAULT_MAX_MESSAGE_BYTES)]
    with (
        ExpertProcess(name, service) as process,
        grpc.insecure_channel(process.address, options=options) as channel,
    ):
        yield channel


def served(truth: Truth) -> Accuracy:
    """Through the services, over gRPC."""
    boxes: list[Found] = []
    masks: list[Found] = []
    parts: list[Found] = []
    with (
        expert("detection", "polysight.vision.v1.DetectionService") as detection,
        expert("panoptic", "polysight.vision.v1.PanopticService") as panoptic,
    ):
        detect = detection_pb2_grpc.DetectionServiceStub(detection).Detect
        segment = panoptic_pb2_grpc.PanopticServiceStub(panoptic).Segment
        for image_id, path in truth.photos.items():
            image = image_pb2.Image(data=path.read_bytes())
            seen = detect(
                detection_pb2.DetectRequest(
                    image=image, score_threshold=LEAST_SCORE, max_detections=MOST_OBJECTS
                )
            )
            size = seen.image_width, seen.image_height
            for one in seen.detections:
                boxes += truth.found(image_id, one.label_id, one.score, bbox=_xywh(one.box, *size))
            drawn = segment(
                panoptic_pb2.SegmentRequest(
                    image=image,
                    score_threshold=LEAST_SCORE,
                    max_segments=MOST_OBJECTS,
                    include_instances=True,
                )
            )
            for instance in drawn.instances:
                rle = _rle(instance.mask)
                masks += truth.found(image_id, instance.label_id, instance.score, segmentation=rle)
            for part in drawn.segments:
                parts += truth.found(image_id, part.label_id, part.score, segmentation=_rle(part.mask))
    return Accuracy(
        truth.average_precision(boxes, "bbox"),
        truth.average_precision(masks, "segm"),
        truth.average_precision(parts, "segm"),
    )


def in_process(truth: Truth, store: WeightStore) -> Accuracy:
    """The same checkpoints under the framework that trained them."""
    boxes: list[Found] = []
    masks: list[Found] = []
    for image_id, result in _predict(truth, store, "yolo26n"):
        for box, score, label in _rows(result):
            x0, y0, x1, y1 = box
            boxes += truth.found(image_id, label, score, bbox=[x0, y0, x1 - x0, y1 - y0])
    for image_id, result in _predict(truth, store, "yolo26n-seg"):
        pixels = [] if result.masks is None else result.masks.data.numpy()
        for (_, score, label), mask in zip(_rows(result), pixels, strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            masks += truth.found(image_id, label, score, segmentation=rle)
    return Accuracy(truth.average_precision(boxes, "bbox"), truth.average_precision(masks, "segm"))


def _predict(truth: Truth, store: WeightStore, artifact: str) -> Iterator[tuple[int, Any]]:
    checkpoint = store.verify(artifact)
    if unexpected := unexpected_globals(checkpoint):
        raise ValueError(f"{checkpoint.name} refers to {', '.join(unexpected)}; it is not loaded")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["YOLO_CONFIG_DIR"] = scratch  # read at the import that follows
        from ultralytics.models.yolo.model import YOLO

        model = YOLO(str(checkpoint))
        for image_id, path in truth.photos.items():
            (result,) = model.predict(
                str(path),
                conf=LEAST_SCORE,
                iou=0.7,
                max_det=MOST_OBJECTS,
                imgsz=640,
                retina_masks=True,
                device="cpu",
                verbose=False,
            )
            yield image_id, result


def _rows(result: Any) -> Iterator[tuple[list[float], float, int]]:
    boxes = result.boxes
    rows = zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
    return ((box, score, int(label)) for box, score, label in rows)


def _xywh(box: geometry_pb2.Box, width: int, height: int) -> list[float]:
    x0, y0 = box.x_min * width, box.y_min * height
    return [x0, y0, box.x_max * width - x0, box.y_max * height - y0]


def _rle(mask: geometry_pb2.Mask) -> dict[str, Any]:
    return {"size": [mask.coco_rle.height, mask.coco_rle.width], "counts": mask.coco_rle.counts}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and with --json one line for machines; exit code 2 when there is nothing to measure."""
    parser = argparse.ArgumentParser(description="Average precision served over gRPC, and under ultralytics.")
    parser.add_argument("--images", type=Path, required=True, help="folder of the photos")
    parser.add_argument("--annotations", type=Path, required=True, help="instances in COCO's format")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
    options = parser.parse_args(arguments)
    try:
        truth = Truth(options.annotations, options.images)
    except (OSError, ValueError, KeyError) as error:
        print(f"cannot use these annotations: {error}", file=sys.stderr)
        return 2
    over_grpc = served(truth)
    beside = in_process(truth, WeightStore())
    table = Table("AP 0.50:0.95", "served", "in process", title=f"{len(truth.photos)} photos")
    table.add_row("boxes (yolo26n)", f"{over_grpc.box:.4f}", f"{beside.box:.4f}")
    table.add_row("masks (yolo26n-seg)", f"{over_grpc.mask:.4f}", f"{beside.mask:.4f}")
    table.add_row("masks, overlaps resolved", f"{over_grpc.partition:.4f}", "")
    Console(stderr=options.json).print(table)
    if options.json:
        numbers = {
            "box_ap_served": over_grpc.box,
            "box_ap_in_process": beside.box,
            "mask_ap_served": over_grpc.mask,
            "mask_ap_in_process": beside.mask,
            "mask_ap_partition": over_grpc.partition,
        }
        rounded = {name: None if value is None else round(value, 4) for name, value in numbers.items()}
        print(json.dumps({**rounded, "images": len(truth.photos)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
