"""The whole expert on fake networks: who owns which line, thresholds, turning, coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from services.ocr.model import Limits, OcrModel, OcrParams, Raw, RawLine, Result
from serving.engine import FakeEngine, TensorSpec

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
CHARSET = ("", *"ABCDEFGHIJ", "~", " ")
LIMITS = Limits(min_side=32, max_side=1280)


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, shape, "float32")


def detector(max_batch: int = 2) -> FakeEngine:
    """Text is where the red plane is lit."""
    return FakeEngine(
        [spec("x", "n", 3, "h", "w")],
        [spec("map", "n", 1, "h", "w")],
        lambda inputs: {"map": (inputs["x"][:, 2:3] > 0).astype(np.float32) * np.float32(0.9)},
        max_batch=max_batch,
    )


def look(picture: Array) -> tuple[float, bool]:
    """The green level (0-1) in the middle of the lit part of a (3, 48, w) crop, and whether it begins blue."""
    blue, green, red = (picture[:, 20:28].mean(axis=1) + 1) / 2
    lit = np.flatnonzero(red > 0.6)
    if not len(lit):
        return 0.0, False
    first, last = int(lit[0]), int(lit[-1])
    return float(green[(first + last) // 2]), bool(blue[first : first + (last - first) // 5].mean() > 0.6)


def recognizer() -> FakeEngine:
    """The letter is the green level of the middle; a crop that begins blue stands on its head and reads as "~"."""

    def compute(inputs: Arrays) -> dict[str, Array]:
        y = np.zeros((len(inputs["x"]), 3, len(CHARSET)), dtype=np.float32)
        for row, picture in zip(y, inputs["x"], strict=True):
            level, on_its_head = look(picture)
            if on_its_head:
                row[1, CHARSET.index("~")] = 0.6
            else:
                row[1, 1 + round(level * 9)] = 0.7 + 0.3 * level
            row[[0, 2], 0] = 1.0
        return {"y": y}

    return FakeEngine([spec("x", "n", 3, 48, "w")], [spec("y", "n", "t", len(CHARSET))], compute)


def classifier() -> FakeEngine:
    """Upside down is what begins blue."""

    def compute(inputs: Arrays) -> dict[str, Array]:
        down = np.array([look(picture)[1] for picture in inputs["x"]], dtype=np.float32)
        return {"y": np.stack([1 - down, down], axis=1)}

    return FakeEngine([spec("x", "n", 3, 48, 192)], [spec("y", "n", 2)], compute)


def model(**engines: FakeEngine | None) -> OcrModel:
    given: dict[str, Any] = {
        "detector": detector(),
        "recognizer": recognizer(),
        "classifier": classifier(),
    } | engines
    return OcrModel(**given, charset=CHARSET, limits=LIMITS)


def picture(*lines: tuple[str, int, int], width: int = 640, height: int = 480, down: bool = False) -> Array:
    """Black, with a red line 200 x 30 pixels for each (letter, x, y); a line on its head has its blue end first."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for letter, x, y in lines:
        line = image[y : y + 30, x : x + 200]
        line[..., 0] = 255
        line[..., 1] = round((ord(letter) - ord("A")) / 9 * 255)
        if down:
            line[:, :60, 2] = 255
    return image


def read(expert: OcrModel, *images: Array, params: OcrParams | None = None) -> list[Result]:
    params = params or OcrParams()
    raws = expert.infer([expert.preprocess(image, params) for image in images])
    return [expert.postprocess(raw, params) for raw in raws]


def texts(result: Result) -> list[str]:
    return [line.text for line in result.lines]


def test_lines_come_in_reading_order_with_their_place() -> None:
    (result,) = read(model(), picture(("C", 40, 300), ("B", 360, 104), ("A", 40, 100)))

    assert texts(result) == ["A", "B", "C"]
    assert (result.width, result.height) == (640, 480)
    x_min, y_min, x_max, y_max = result.lines[0].box
    assert 0.0 <= x_min < 40 / 640 < 240 / 640 < x_max < 0.5
    assert 0.1 < y_min < 100 / 480 < 130 / 480 < y_max < 0.4


def test_an_image_without_text_gives_an_empty_list_and_costs_no_recognition() -> None:
    reader = recognizer()

    (result,) = read(model(recognizer=reader), picture())

    assert result.lines == ()
    assert reader.batches == []


def test_every_image_of_a_batch_gets_its_own_lines() -> None:
    images = [
        picture(("A", 40, 100), ("B", 40, 200)),
        picture(),
        picture(("C", 40, 100), width=320),
        picture(("D", 300, 400), ("E", 20, 20), ("F", 300, 20)),
    ]
    eyes = detector()

    results = read(model(detector=eyes), *images)

    assert [texts(result) for result in results] == [["A", "B"], [], ["C"], ["E", "F", "D"]]
    assert [result.width for result in results] == [640, 640, 320, 640]
    assert sorted(eyes.batches) == [1, 1, 2]  # three of one size in runs of at most two, one of another


def test_a_batch_reads_as_its_images_alone() -> None:
    images = [picture(("A", 40, 100)), picture(("J", 100, 200), ("C", 400, 207)), picture(("B", 0, 0))]
    expert = model()

    together = read(expert, *images)

    for result, image in zip(together, images, strict=True):
        (alone,) = read(expert, image)
        assert texts(result) == texts(alone)
        for one, other in zip(result.lines, alone.lines, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-6)
            assert np.array_equal(one.polygon, other.polygon)


def test_crops_of_all_images_share_runs_of_recognition() -> None:
    reader = recognizer()

    read(model(recognizer=reader), *[picture(("A", 40, 100), ("B", 40, 200)) for _ in range(3)])

    assert reader.batches == [6]


def test_a_line_on_its_head_is_turned_and_begins_at_its_other_end() -> None:
    (result,) = read(model(), picture(("D", 100, 100), down=True))

    (line,) = result.lines
    assert (line.text, line.upside_down) == ("D", True)
    assert line.polygon[0] == pytest.approx(line.polygon.max(axis=0))


def test_without_the_classifier_it_stays_on_its_head() -> None:
    image = picture(("D", 100, 100), down=True)

    (unasked,) = read(model(), image, params=OcrParams(use_angle=False))
    (absent,) = read(model(classifier=None), image)

    assert [(line.text, line.upside_down) for line in unasked.lines] == [("~", False)]
    assert texts(absent) == ["~"]


def test_of_a_batch_only_those_are_turned_that_asked() -> None:
    expert = model()
    image = picture(("D", 100, 100), down=True)
    asked, not_asked = OcrParams(use_angle=True), OcrParams(use_angle=False)

    raws = expert.infer([expert.preprocess(image, params) for params in (not_asked, asked)])

    assert [raw.lines[0].text for raw in raws] == ["~", "D"]


def test_a_classifier_that_errs_is_overruled_by_what_can_be_read() -> None:
    always = FakeEngine(
        [spec("x", "n", 3, 48, 192)],
        [spec("y", "n", 2)],
        lambda inputs: {"y": np.tile(np.array([0, 1], dtype=np.float32), (len(inputs["x"]), 1))},
    )
    blue_end = picture(("J", 100, 100))
    blue_end[100:130, 240:300, 2] = 255  # turned by 180 degrees it would begin blue

    (result,) = read(model(classifier=always), blue_end)

    assert [(line.text, line.upside_down) for line in result.lines] == [("J", False)]


def test_doubtful_lines_are_dropped_at_the_caller_s_threshold() -> None:
    image = picture(("A", 40, 100), ("J", 40, 200))

    assert texts(read(model(), image, params=OcrParams(min_confidence=0.5))[0]) == ["A", "J"]
    assert texts(read(model(), image, params=OcrParams(min_confidence=0.9))[0]) == ["J"]
    assert texts(read(model(), image, params=OcrParams(min_region_score=0.95))[0]) == []


def test_blank_readings_are_no_lines() -> None:
    quad = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], dtype=np.float32)
    raw = Raw(tuple(RawLine(quad, text, 1.0, False) for text in ("", "  ", "x")), width=10, height=10)

    assert texts(model().postprocess(raw, OcrParams())) == ["x"]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (440, 0), (0, 450), (440, 450)])
def test_polygons_stay_inside_the_image(x: int, y: int) -> None:
    (result,) = read(model(), picture(("E", x, y)))

    (line,) = result.lines
    assert line.polygon.shape == (4, 2)
    assert line.polygon.min() >= 0.0
    assert line.polygon.max() <= 1.0
    assert line.box == pytest.approx((*line.polygon.min(axis=0), *line.polygon.max(axis=0)))


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (31, 33)])
def test_odd_sizes_are_read(size: tuple[int, int]) -> None:
    (result,) = read(model(), np.zeros((*size, 3), dtype=np.uint8))

    assert result.lines == ()
    assert (result.height, result.width) == size


def test_warm_up_runs_every_network_alone_and_full() -> None:
    engines = {
        "detector": detector(max_batch=4),
        "recognizer": recognizer(),
        "classifier": classifier(),
    }

    model(**engines).warm_up((1, 4))

    assert engines["detector"].batches == [1, 4]
    assert engines["recognizer"].batches == [1, 1, 8, 8]
    assert engines["classifier"].batches == [1, 8]
