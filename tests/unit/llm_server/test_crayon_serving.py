"""The embedded default with a crayon prompt: what is served is what the model of the training says, token for token."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from llm_server.models.crayon_files import load_crayon, save_crayon
from llm_server.models.crayon_hooks import branch_outputs, put_tokens
from llm_server.models.crayon_prompt import CrayonPrompt, CrayonShape
from llm_server.polysight_smol import assemble
from llm_server.request import parse_request
from llm_server.sequence import Event, FailedEvent, FinishedEvent
from llm_server.served_model import ServedModel, WeightsRecord
from llm_server.serving_options import ServingOptions
from llm_server.tiny_model import BASE_NAME, save_tiny_adapter, tiny_model, tiny_tokenizer
from llm_server.training.dual_model import DualModel
from llm_server.training.image_packing import ImagePacked, collate_images, image_place, with_image
from llm_server.training.packed_attention import additive
from llm_server.training.packing import IGNORED, Packed, pack
from llm_server.training.scene_maps import Maps
from polysight.llm.v1 import generation_pb2 as pb
from serving.errors import CrayonMalformedError, UnsupportedOptionError
from serving.image import ImageLimits

VOCABULARY = 320
SHAPE = CrayonShape(rows=4, columns=5, width=8, hidden=32, rank=3, alpha=6.0)
SEEN = "The image includes (#1 person) [0.00, 0.16, 0.29, 0.88]."
QUESTION = "How many people are in the picture?"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters with a crayon prompt beside them."""
    root = tmp_path_factory.mktemp("adapters")
    save_tiny_adapter(root / "object", VOCABULARY, seed=1, rank=4)
    save_tiny_adapter(root / "vl", VOCABULARY, seed=2, rank=2)
    torch.manual_seed(3)
    crayon = CrayonPrompt(SHAPE, branch_outputs(tiny_model(VOCABULARY), SHAPE.targets))
    for name in crayon.outputs:
        torch.nn.init.normal_(crayon.branch(name).B, std=0.3)
    save_crayon(crayon, root / "crayon", base=BASE_NAME)
    return root


@pytest.fixture(scope="module")
def maps() -> Maps:
    rng = np.random.default_rng(4)
    return Maps(rng.integers(0, 134, (4, 5)).astype(np.uint8), rng.integers(0, 21, (4, 5)).astype(np.uint8))


def served(root: Path, prefill_chunk: int) -> ServedModel:
    model = assemble(
        tiny_model(VOCABULARY),
        tiny_tokenizer(),
        WeightsRecord("tiny", "00" * 32, "Apache-2.0"),
        ServingOptions("fp32", root, 1, 4, 8, prefill_chunk, None, 32, 12),
        base=BASE_NAME,
    )
    model.engine.start()
    return model


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    """Reads prompts in chunks that begin and end within the image positions."""
    one = served(root, 16)
    yield one
    one.engine.close()


def ask(maps: Maps | None, **changes: Any) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        turns=[pb.Turn(role=pb.ROLE_USER, text=QUESTION)],
        verbalized_text=SEEN,
        sampling=pb.SamplingParameters(max_new_tokens=10),
        **changes,
    )
    if maps is not None:
        rows, columns = maps.classes.shape
        request.crayon.CopyFrom(
            pb.CrayonMaps(
                height=rows,
                width=columns,
                class_indices=maps.classes.tobytes(),
                instance_ordinals=maps.numbers.tobytes(),
            )
        )
    return request


def answer(
    model: ServedModel, request: pb.GenerateRequest
) -> tuple[tuple[int, ...], list[int], FinishedEvent]:
    """Ids of the prompt and of the answer, its end token left out, and the end."""
    wanted = parse_request(request, model, ImageLimits(), deadline=None)
    events: list[Event] = []
    ended = threading.Event()

    def sink(event: Event) -> None:
        events.append(event)
        if isinstance(event, FinishedEvent | FailedEvent):
            ended.set()

    sequence = model.engine.submit(wanted, sink)
    assert ended.wait(60)
    last = events[-1]
    assert isinstance(last, FinishedEvent)
    return wanted.prompt, list(sequence.generated), last


def trained(root: Path) -> DualModel:
    """The model as training has it, both adapters active."""
    peft: Any = PeftModel.from_pretrained(tiny_model(VOCABULARY), str(root / "object"), adapter_name="object")
    peft.load_adapter(str(root / "vl"), adapter_name="vl")
    peft.base_model.set_adapter(["object", "vl"])
    return DualModel(peft.eval(), load_crayon(root / "crayon", base=BASE_NAME)).eval()


@torch.inference_mode()
def likeliest(dual: DualModel, ids: list[int], maps: Maps | None, place: int) -> list[int]:
    """The likeliest next token after each position, by the forward pass of the training."""
    n = len(ids)
    packed = Packed(tuple(ids), tuple(range(n)), (0,) * n, (IGNORED,) * n, (0.0,) * n)
    batch = collate_images([ImagePacked(packed, maps, place if maps is not None else 0)], pad_id=0)
    rows = dual.rows(batch)
    causal = dual.adapted.base_model.model
    with dual.within(rows):
        embeddings = put_tokens(causal.get_input_embeddings()(batch.text.input_ids), rows)
        hidden = causal.model(
            inputs_embeds=embeddings,
            position_ids=batch.text.position_ids,
            attention_mask=additive(batch.text.mask, embeddings.dtype),
            use_cache=False,
        ).last_hidden_state
    found: list[int] = causal.lm_head(hidden)[0, :n].argmax(dim=-1).tolist()
    return found


@pytest.mark.parametrize("with_maps", [True, False])
def test_served_is_trained(root: Path, model: ServedModel, maps: Maps, with_maps: bool) -> None:
    tokenizer: Any = tiny_tokenizer()
    seen = maps if with_maps else None
    prompt, ids, _ = answer(model, ask(seen))
    place = image_place(tokenizer)
    packed = with_image(pack(tokenizer, SEEN, [(QUESTION, "Yes.")], max_tokens=400), seen, place).packed
    answered = len(tokenizer.encode("Yes.<|im_end|>", add_special_tokens=False))
    assert prompt == packed.ids[:-answered]
    expected = likeliest(trained(root), [*prompt, *ids], seen, place)
    assert ids == expected[len(prompt) - 1 : -1]
    assert len(ids) > 2


def test_maps_change_the_answer_and_share_nothing_with_others(model: ServedModel, maps: Maps) -> None:
    said = {}
    for name, request in {
        "none": ask(None),
        "maps": ask(maps),
        "others": ask(Maps(maps.numbers, maps.numbers)),
        "classes": ask(maps, crayon_ablation=pb.CrayonAblation(without_numbering=True)),
        "numbers": ask(maps, crayon_ablation=pb.CrayonAblation(without_semantic=True)),
    }.items():
        _, ids, _ = answer(model, request)
        said[name] = tuple(ids)
        again = answer(model, request)
        assert tuple(again[1]) == said[name]
        shared = model.prompting.prepare(request, limit=1000).shared
        assert again[2].cached_tokens == 16 * (shared // 16) > 0
    assert len(set(said.values())) >= 4
    prompt, ids, _ = answer(
        model, ask(maps, crayon_ablation=pb.CrayonAblation(without_semantic=True, without_numbering=True))
    )
    assert tuple(ids) == said["none"]
    assert len(prompt) == len(answer(model, ask(None))[0])


def test_chunks_do_not_matter(root: Path, model: ServedModel, maps: Maps) -> None:
    whole = served(root, 512)
    try:
        assert answer(whole, ask(maps))[1] == answer(model, ask(maps))[1]
    finally:
        whole.engine.close()


def test_an_untrained_number_table_is_left_out_of_every_request(
    root: Path, model: ServedModel, maps: Maps, tmp_path: Path
) -> None:
    for name in ("object", "vl"):
        (tmp_path / name).symlink_to(root / name)
    crayon = load_crayon(root / "crayon", base=BASE_NAME)
    save_crayon(crayon, tmp_path / "crayon", base=BASE_NAME, queries="semantic")
    semantic = served(tmp_path, 16)
    try:
        without_numbers = pb.CrayonAblation(without_numbering=True)
        expected = answer(model, ask(maps, crayon_ablation=without_numbers))[:2]
        assert answer(semantic, ask(maps))[:2] == expected
        assert answer(semantic, ask(maps, crayon_ablation=without_numbers))[:2] == expected
        # Nothing is left of the crayon prompt then, and no position for it.
        without_classes = pb.CrayonAblation(without_semantic=True)
        assert (
            answer(semantic, ask(maps, crayon_ablation=without_classes))[:2] == answer(model, ask(None))[:2]
        )
        assert semantic.version != model.version
    finally:
        semantic.engine.close()


def test_another_grid_is_refused(model: ServedModel) -> None:
    square = np.zeros((5, 5), np.uint8)
    with pytest.raises(CrayonMalformedError):
        parse_request(ask(Maps(square, square)), model, ImageLimits(), deadline=None)


def test_without_weights_nothing_changes(adapters_root: Path, maps: Maps) -> None:
    plain = served(adapters_root, 16)
    try:
        assert plain.prompting.traits.crayon_grid is None
        prompt, ids, _ = answer(plain, ask(maps))
        assert (prompt, ids) == answer(plain, ask(None))[:2]
        with pytest.raises(UnsupportedOptionError):
            parse_request(
                ask(maps, crayon_ablation=pb.CrayonAblation(without_text=True)),
                plain,
                ImageLimits(),
                deadline=None,
            )
    finally:
        plain.engine.close()
