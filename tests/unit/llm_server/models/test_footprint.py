"""Bytes that are computed from shapes are those that loaded modules hold; the released models keep their limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from llm_server.models.checkpoint import build, load
from llm_server.models.dimensions import RELEASED, RELEASED_BYTES
from llm_server.models.footprint import footprint, quantised_bytes, resident_bytes
from llm_server.models.precision import precision, quantised_names
from llm_server.models.quantised_linear import quantised_linear


@pytest.mark.parametrize("kind", ["collavo", "moai"])
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "int8", "nf4", "reference-4bit"])
def test_a_loaded_model_holds_what_was_computed(golden_dir: Path, kind: str, name: str) -> None:
    model = load(golden_dir / "checkpoints" / f"{kind}-tiny", precision(name))
    assert resident_bytes(model) == footprint(build(model.dimensions), precision(name)).total


@pytest.mark.parametrize("shape", [(64, 512), (40, 48), (33, 70), (256, 4096)])
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_one_layer_holds_what_was_computed(shape: tuple[int, int], name: str) -> None:
    chosen = precision(name)
    assert chosen.quantisation is not None
    layer = quantised_linear(torch.randn(shape), chosen, torch.device("cpu"))
    assert resident_bytes(layer) == quantised_bytes(shape, chosen.quantisation)


@pytest.mark.parametrize(("name", "limit"), [("moai-7b", 7.0e9), ("collavo-7b", 7.8e9)])
def test_the_released_models_in_each_precision(name: str, limit: float) -> None:
    model = build(RELEASED[name])
    sixteen, four = footprint(model, precision("bf16")), footprint(model, precision("nf4"))
    published = footprint(model, precision("reference-4bit"))
    assert sixteen.total == footprint(model, precision("fp16")).total == RELEASED_BYTES[name]
    assert four.total <= limit
    # About 4.13 bits a parameter, and 16 for what stays: embeddings, head, tower, connectors, compressor, mixers.
    rest = 2 * (four.parameters - four.quantised_parameters)
    assert four.total - rest == pytest.approx(four.quantised_parameters * 4.127 / 8, rel=1e-3)
    assert published.total > 2.5 * four.total
    assert published.quantised_parameters == 603_979_776


def test_published_4_bit_leaves_the_backbone_alone() -> None:
    for kind, model in ((name, build(dimensions)) for name, dimensions in RELEASED.items()):
        names = quantised_names(model, precision("reference-4bit"))
        assert {name.rsplit(".", maxsplit=1)[1] for name in names} == {"Plora_A", "Plora_B"}, kind
        ours = {name.rsplit(".", maxsplit=1)[1] for name in quantised_names(model, precision("nf4"))}
        assert ours >= {"Plora_main", "Plora_A", "Plora_B"}
        assert all(".layers." in name for name in quantised_names(model, precision("nf4")))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="int3"):
        precision("int3")


def test_the_command(golden_dir: Path) -> None:
    tiny = str(golden_dir / "checkpoints" / "moai-tiny")
    arguments = ["models", "footprint", "moai-7b", "collavo-7b", tiny]
    ran = CliRunner().invoke(app, [*arguments, "--precision", "nf4,reference-4bit,bf16", "--json"])
    assert ran.exit_code == 0
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["moai-7b"]["bytes"]["bf16"] == 17_737_275_440
    assert told["collavo-7b"]["bytes"]["bf16"] == 18_583_924_736
    assert told["moai-7b"]["bytes"]["nf4"] <= 7.0e9
    assert told[tiny]["tensors"] == 259
    for wrong in (["moai-70b"], ["moai-7b", "--precision", "int3"]):
        assert CliRunner().invoke(app, ["models", "footprint", *wrong]).exit_code == 2
