"""The lmms-eval adapter under a small stand-in for lmms-eval's base class and task loop, against a real gateway.

The stand-in has what the adapter uses of `lmms_eval.api.model.lmms` and `lmms_eval.api.instance.Instance`; the package
itself is not installed here and has not driven it.
"""

from __future__ import annotations

import asyncio
import io
import sys
import types
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.dummy_mesh import DummyMesh, free_port
from llm_server.evaluation.harness.example import Condition
from llm_server.evaluation.lmms_eval_plugin.gateway_model import (
    LoglikelihoodUnsupportedError,
    UnsupportedVisualsError,
    gateway_model,
    image_bytes,
    request_of,
)
from llm_server.evaluation.lmms_eval_plugin.models import AVAILABLE_MODELS


class Hook:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, Any]] = []

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.kept.append((attr, req, res))


class Lmms:
    """What lmms-eval's base class sets up."""

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = Hook()
        self.task_dict: dict[str, Any] = {}
        self.cache_dict: dict[str, Any] = defaultdict(dict)


@dataclass
class Instance:
    """A request as lmms-eval makes it."""

    arguments: tuple[Any, ...]
    resps: list[str] = field(default_factory=list)

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


class TinyTask:
    """A task of four questions: pictures, questions, answers, and a metric."""

    name = "tiny_yes_no"

    def __init__(self) -> None:
        docs = [
            {
                "image": Image.new("RGB", (32, 24), (n, 0, 0)),
                "question": f"Is it {n}?",
                "answer": "yes" if n % 2 else "no",
            }
            for n in range(4)
        ]
        self.dataset: dict[str, list[dict[str, Any]]] = {"test": docs}

    def requests(self) -> list[Instance]:
        arguments = {"max_new_tokens": 8, "temperature": 0, "do_sample": False, "until": ["\n\n"]}

        def visual(doc: dict[str, Any]) -> list[Image.Image]:
            return [doc["image"]]

        return [
            Instance((f"<image>\n{doc['question']}", arguments, visual, number, self.name, "test"))
            for number, doc in enumerate(self.dataset["test"])
        ]

    def accuracy(self, answers: list[str]) -> float:
        right = [
            doc["answer"] == said.lower() for doc, said in zip(self.dataset["test"], answers, strict=True)
        ]
        return float(sum(right) / len(right))


@pytest.fixture
async def mesh() -> AsyncIterator[tuple[DummyMesh, str]]:
    port = free_port()
    async with DummyMesh(port=port) as mesh:
        mesh.llm.say = lambda request: "yes" if request.turns[-1].text == "Is it 1?" else "no"
        yield mesh, f"127.0.0.1:{port}"


async def test_a_small_task_runs_through_the_gateway(mesh: tuple[DummyMesh, str]) -> None:
    dummies, address = mesh
    model = gateway_model(Lmms)(
        gateway=address, adapters="object+vl", concurrency="2", batch_size=1, device=None
    )
    task = TinyTask()
    model.task_dict[task.name] = task.dataset
    answers = await asyncio.to_thread(model.generate_until, task.requests())
    assert answers == ["no", "yes", "no", "no"]
    assert task.accuracy(answers) == 0.75
    asked = {request.turns[-1].text: request for request in dummies.llm.requests}
    assert set(asked) == {f"Is it {n}?" for n in range(4)}
    one = asked["Is it 2?"]
    assert (one.sampling.max_new_tokens, one.sampling.temperature, list(one.stop)) == (8, 0.0, ["\n\n"])
    assert [adapter.name for adapter in one.adapters.adapters] == ["object", "vl"]
    assert sorted(result for _, _, result in model.cache_hook.kept) == ["no", "no", "no", "yes"]


def test_the_plugin_is_laid_out_as_lmms_eval_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    package = "llm_server.evaluation.lmms_eval_plugin"
    api = types.ModuleType("lmms_eval.api.model")
    api.lmms = Lmms  # type: ignore[attr-defined]
    for name in ("lmms_eval", "lmms_eval.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", api)
    offered = importlib.import_module(f"{package}.models").AVAILABLE_MODELS
    ((name, class_name),) = offered.items()
    loaded = getattr(importlib.import_module(f"{package}.models.{name}"), class_name)
    # Loaded with the stand-in's base class: nobody else is to find it.
    del sys.modules[f"{package}.models.{name}"]
    assert offered is AVAILABLE_MODELS
    assert issubclass(loaded, Lmms)
    assert loaded.is_simple is True


@pytest.mark.parametrize(
    ("arguments", "temperature", "top_p", "stop"),
    [
        ({}, 0.0, 0.0, []),
        ({"until": "\n", "num_beams": 3}, 0.0, 0.0, ["\n"]),
        ({"temperature": 0.7, "top_p": 0.5, "until": ["", "x"]}, 0.7, 0.5, ["x"]),
        ({"do_sample": True}, 1.0, 0.0, []),
        ({"do_sample": False, "temperature": None, "top_p": 0.9}, 0.0, 0.0, []),
    ],
)
def test_generation_arguments(
    arguments: dict[str, Any], temperature: float, top_p: float, stop: list[str]
) -> None:
    request = request_of("<image>What?", arguments, b"x", Condition("lmms-eval"))
    assert request.turns[0].text == "What?"
    assert request.sampling.temperature == pytest.approx(temperature)
    assert request.sampling.top_p == pytest.approx(top_p)
    assert list(request.stop) == stop
    assert not request.HasField("adapters")


def test_one_picture_is_sent_as_it_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"bytes as they are")
    assert image_bytes(str(file)) == b"bytes as they are"
    sent = Image.open(io.BytesIO(image_bytes([Image.new("RGBA", (5, 4), (1, 2, 3, 255))])))
    assert (sent.format, sent.mode, sent.size, sent.getpixel((0, 0))) == ("PNG", "RGB", (5, 4), (1, 2, 3))


@pytest.mark.parametrize("visuals", [[], ["a", "b"], [None], 3])
def test_other_visuals_are_refused(visuals: Any) -> None:
    with pytest.raises(UnsupportedVisualsError):
        image_bytes(visuals)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("loglikelihood", LoglikelihoodUnsupportedError),
        ("generate_until_multi_round", UnsupportedVisualsError),
    ],
)
def test_what_a_gateway_cannot_do_is_said(method: str, error: type[Exception]) -> None:
    call: Callable[[list[Any]], Any] = getattr(gateway_model(Lmms)(), method)
    with pytest.raises(error):
        call([])


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="pretrained"):
        gateway_model(Lmms)(pretrained="x")


def test_the_task_that_comes_along_draws_asks_and_marks() -> None:
    import importlib
    import json

    package = "llm_server.evaluation.lmms_eval_plugin.tasks"
    # lmms-eval ends with an error where a plugin has no such package.
    folder = Path(str(importlib.import_module(package).__file__)).parent / "polysight_words"
    drawing = importlib.import_module(f"{package}.polysight_words.drawing")
    docs = [json.loads(line) for line in (folder / "words.jsonl").read_text().splitlines()]
    assert len(docs) == 8
    assert str(folder / "words.jsonl").endswith(
        next(
            line.split(": ")[1]
            for line in (folder / "polysight_words.yaml").read_text().splitlines()
            if line.strip().startswith("test:")
        )
    )
    for doc in docs:
        (picture,) = drawing.doc_to_visual(doc)
        assert picture.size == (640, 360)
        assert len(picture.getcolors(10**6)) > 2
        assert drawing.doc_to_text(doc) == doc["question"]
        assert drawing.process_results(doc, [f"It says: {doc['word'].lower()}."]) == {"contains_word": 1.0}
        assert drawing.process_results(doc, ["No."]) == {"contains_word": 0.0}
