"""The exported halves of OWLv2 in ONNX Runtime, put together in numpy, against the whole in PyTorch; tiny, random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.detection.export import export_owlv2, main
from services.detection.owlv2.bundle import Bundle
from services.detection.owlv2.model import Owlv2Detector, Owlv2Params, Prepared
from services.detection.owlv2.queries import Queries, best_queries, unit
from services.detection.owlv2.tokenizer import PhraseTokenizer, padded
from services.detection.owlv2.words import BUILT_IN, read_words
from serving.engine import OnnxRuntimeEngine
from serving.weights import WeightsUnavailableError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOLERANCE, LOGITS_TOLERANCE = 1e-4, 1e-3
SEED = 3
PHRASES = ("a cat", "grey wolf", "the red traffic light", "wall", "potter's wheel")


@pytest.fixture(scope="module")
def network() -> Any:
    from services.detection.owlv2.network import random_network, tiny_config

    return random_network(tiny_config(), seed=SEED)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from services.detection.owlv2.random_tokenizer import random_tokenizer

    return random_tokenizer(2048)


@pytest.fixture(scope="module")
def folder(network: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the hub gives it: weights, configuration, and the tokenizer as a vocabulary and merges."""
    import json

    path = tmp_path_factory.mktemp("checkpoint")
    network.save_pretrained(path)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (path / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in state["merges"])]
    (path / "merges.txt").write_text("\n".join(merges) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "!"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("export") / "owlv2"
    export_owlv2(folder, out)
    assert list(out.parent.iterdir()) == [out]
    return Bundle(out)


@pytest.fixture(scope="module")
def image_engine(bundle: Bundle) -> Any:
    engine = OnnxRuntimeEngine(bundle.image, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def text_engine(bundle: Bundle) -> Any:
    engine = OnnxRuntimeEngine(bundle.text, threads=1, max_batch=16)
    yield engine
    engine.close()


def phrase_tokenizer(bundle: Bundle) -> PhraseTokenizer:
    sheet = bundle.sheet
    return PhraseTokenizer(
        bundle.tokenizer, max_tokens=sheet.max_tokens, begin_id=sheet.begin_id, end_id=sheet.end_id
    )


def pictures(count: int) -> Any:
    return np.random.default_rng(count).normal(size=(count, 3, 64, 64)).astype(np.float32)


def whole(network: Any, tokenizer: Any, pixels: Any, phrases: tuple[str, ...] = PHRASES) -> Any:
    """What transformers says, words and pictures in one run, with padding masked as its processor asks."""
    words = tokenizer(list(phrases) * len(pixels), padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        return network(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=torch.from_numpy(pixels),
        )


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_two_halves_say_what_the_whole_says(
    network: Any, tokenizer: Any, bundle: Bundle, image_engine: Any, text_engine: Any, batch: int
) -> None:
    expected = whole(network, tokenizer, pixels := pictures(batch))
    tokens: Any = phrase_tokenizer(bundle).read(PHRASES)
    embeddings = text_engine.run({"input_ids": padded(tokens, 16)})["query_embeds"]
    said = image_engine.run({"pixel_values": pixels})
    for found, want in (
        (embeddings, expected.text_embeds[0]),
        (said["class_embeds"], network.class_head.dense0(expected.image_embeds.flatten(1, 2))),
        (said["boxes"], expected.pred_boxes),
        (said["objectness"], expected.objectness_logits),
    ):
        np.testing.assert_allclose(found, want.detach().numpy(), atol=TOLERANCE, rtol=0)
    cosines = unit(said["class_embeds"]) @ unit(embeddings).T
    logits = (cosines + said["logit_shift"][..., None]) * said["logit_scale"][..., None]
    assert expected.logits.shape == (batch, 16, len(PHRASES))
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=LOGITS_TOLERANCE, rtol=0)
    queries = Queries.of(embeddings)
    for index in range(batch):
        best, _ = best_queries(
            said["class_embeds"][index], said["logit_shift"][index], said["logit_scale"][index], queries
        )
        largest = expected.logits[index].max(dim=-1).values.numpy()
        np.testing.assert_allclose(best, largest, atol=LOGITS_TOLERANCE, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_phrases_are_embedded_as_the_whole_embeds_them(
    network: Any, tokenizer: Any, bundle: Bundle, text_engine: Any, batch: int
) -> None:
    phrases = tuple(f"{phrase} {number}" for number in range(2) for phrase in PHRASES)[:batch]
    expected = whole(network, tokenizer, pictures(1), phrases).text_embeds[0]
    tokens: Any = phrase_tokenizer(bundle).read(phrases)
    embeddings = text_engine.run({"input_ids": padded(tokens, 16)})["query_embeds"]
    assert len(embeddings) == batch
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=TOLERANCE, rtol=0)


def test_pictures_and_phrases_are_answered_alike_alone_and_in_company(
    image_engine: Any, text_engine: Any
) -> None:
    tokens = np.random.default_rng(0).integers(1, 2046, (8, 16))
    tokens[:, 0], tokens[:, -1] = 2046, 2047
    for engine, name, batch in (
        (image_engine, "pixel_values", pictures(8)),
        (text_engine, "input_ids", tokens),
    ):
        together = engine.run({name: batch})
        for index in range(8):
            for output, answer in engine.run({name: batch[index : index + 1]}).items():
                np.testing.assert_allclose(answer[0], together[output][index], atol=TOLERANCE, rtol=0)


def test_what_is_found_is_what_the_published_post_processing_finds(
    network: Any, tokenizer: Any, bundle: Bundle, image_engine: Any, text_engine: Any
) -> None:
    """Boxes in pixels of the padded square's picture, in the network's order, not clipped: the reference profile."""
    from transformers.models.owlv2.image_processing_owlv2 import Owlv2ImageProcessor

    pixels, size = pictures(4), 490
    expected = Owlv2ImageProcessor().post_process_object_detection(
        whole(network, tokenizer, pixels), threshold=0.4, target_sizes=[(size, size)] * 4
    )
    tokens: Any = phrase_tokenizer(bundle).read(PHRASES)
    queries = Queries.of(text_engine.run({"input_ids": padded(tokens, 16)})["query_embeds"])
    detector = Owlv2Detector(image_engine, labels=PHRASES)
    params = Owlv2Params(0.4, 4096, queries=queries, reference=True)
    raws = detector.infer([Prepared(picture, size, size, squashed=True) for picture in pixels])
    assert sum(len(one["scores"]) for one in expected) > 8
    outside = 0
    for raw, want in zip(raws, expected, strict=True):
        found = detector.postprocess(raw, params)
        np.testing.assert_allclose(found.boxes * size, want["boxes"].numpy(), atol=0.05, rtol=0)
        np.testing.assert_allclose(found.scores, want["scores"].numpy(), atol=TOLERANCE, rtol=0)
        np.testing.assert_array_equal(found.labels, want["labels"].numpy())
        outside += int((found.boxes < 0).any() or (found.boxes > 1).any())
    assert outside, "no box left the picture: clipping would not have been seen"


def test_a_picture_finds_what_the_published_one_shot_detection_finds(network: Any, image_engine: Any) -> None:
    targets, examples = pictures(3), pictures(5)[:3]
    with torch.no_grad():
        expected = network.image_guided_detection(
            pixel_values=torch.from_numpy(targets), query_pixel_values=torch.from_numpy(examples)
        )
    detector = Owlv2Detector(image_engine, labels=())
    shown = detector.infer([Prepared(picture, 64, 64, squashed=False) for picture in examples])
    searched = detector.infer([Prepared(picture, 64, 64, squashed=False) for picture in targets])
    for index, (example, raw) in enumerate(zip(shown, searched, strict=True)):
        queries = Queries.of(detector.example(example, None)[None])
        logits, _ = best_queries(raw.class_embeds, raw.logit_shift, raw.logit_scale, queries)
        np.testing.assert_allclose(
            logits, expected.logits[index, :, 0].numpy(), atol=LOGITS_TOLERANCE, rtol=0
        )


def test_random_weights_are_well_conditioned(network: Any, tokenizer: Any) -> None:
    """Patches differ, pictures and words matter, and logits are of the size of a trained network's."""
    phrases = read_words(BUILT_IN)[:200]
    said = whole(network, tokenizer, pictures(2), tuple(one for one in phrases if len(one) < 12))
    assert said.logits.std() > 1
    assert said.logits.std(dim=2).mean() > 0.2
    assert said.logits.std(dim=1).mean() > 0.5
    assert (said.logits[0] - said.logits[1]).abs().max() > 0.1
    assert len(said.logits.argmax(dim=2).unique()) > 4
    assert said.pred_boxes.std() > 0.05


def test_the_same_seed_draws_the_same_weights(network: Any) -> None:
    from services.detection.owlv2.network import random_network, tiny_config

    again, other = (random_network(tiny_config(), seed=seed) for seed in (SEED, SEED + 1))
    weights = [one.class_head.dense0.weight for one in (network, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_phrases_become_the_tokens_of_the_checkpoint(bundle: Bundle, tokenizer: Any) -> None:
    """Serving reads what transformers wrote: `tokenizers` alone, and the same ids."""
    phrases = [
        *PHRASES,
        "  A  Cat ",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\N{CJK UNIFIED IDEOGRAPH-72AC}",
        "3 dogs!",
    ]
    expected = tokenizer(phrases)["input_ids"]
    assert [list(one) for one in phrase_tokenizer(bundle).read(phrases) if isinstance(one, tuple)] == expected


def test_a_checkpoint_that_cannot_be_had_or_is_anothers_is_refused(
    folder: Path, network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    with pytest.raises(WeightsUnavailableError, match="nothing-here"):
        export_owlv2(tmp_path / "nothing-here", tmp_path / "out")
    assert main(["owlv2", "random:huge", str(tmp_path / "out")]) == 1
    assert "tiny" in capsys.readouterr().err
    (other := tmp_path / "other").mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = {f"backbone.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsUnavailableError, match="no OWLv2 checkpoint"):
        export_owlv2(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_torn_export_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    torn = shutil.copytree(bundle.image.parent, tmp_path / "torn")
    with (torn / "text.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsUnavailableError, match=r"text\.onnx"):
        Bundle(torn)
    with pytest.raises(WeightsUnavailableError, match="export owlv2"):
        Bundle(tmp_path)
