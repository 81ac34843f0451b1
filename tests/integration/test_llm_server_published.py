"""CoLLaVO and MoAI served over real gRPC from tiny checkpoints: what they answer is what the published code answers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file
from torch import Tensor

from llm_server.__main__ import load
from llm_server.adapter_service import AdapterService
from llm_server.engine import Engine
from llm_server.published_models import Checkpoint, assemble_published
from llm_server.served_model import ServedModel
from llm_server.service import GenerationService
from llm_server.serving_options import ServingOptions
from llm_server.settings import LlmServerSettings
from llm_server.vision_language_runner import VisionLanguageRunner
from polysight.common.v1 import image_pb2, model_pb2
from polysight.llm.v1 import adapter_admin_pb2, adapter_admin_pb2_grpc, generation_pb2_grpc
from polysight.llm.v1 import generation_pb2 as pb
from serving.channel import open_channel
from serving.errors import error_info, status_from_rpc_error
from serving.grpc_server import Server
from serving.image import ImageLimits
from serving.telemetry.metrics import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

TWICE = (
    pb.GateOverride(only=pb.GATE_EXPERT_AUXILIARY),
    pb.GateOverride(side=pb.GATE_SIDE_IMAGE, only=pb.GATE_EXPERT_CROSS),
)
GRID = 5
SIDE = 70
MIXER = 7
EOS = 2


@dataclass
class Golden:
    """Cases of a model's golden vectors, as requests."""

    told: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, folder: Path, kind: str) -> Golden:
        path = folder / "vectors" / f"{kind}-tiny.json"
        return cls(json.loads(path.read_text("utf-8"))["cases"], load_file(path.with_suffix(".safetensors")))

    @property
    def singles(self) -> list[str]:
        return [name for name, case in self.told.items() if not case["batch_of"]]

    def array(self, name: str) -> Any:
        return self.tensors[name].numpy()

    def ids(self, name: str, kind: str) -> list[int]:
        """Up to the stop token."""
        ids: list[int] = self.tensors[f"{name}.{kind}"][0].tolist()
        return ids[: ids.index(EOS)] if EOS in ids else ids

    def request(self, name: str, **sampling: Any) -> pb.GenerateRequest:
        """The case under the reference profile; a fourth channel is dropped, as the published code does."""
        case = self.told[name]
        demo = case["template"] == "demo"
        request = pb.GenerateRequest(
            turns=[pb.Turn(role=pb.ROLE_USER, text=case["prompts"][0])],
            image=png(self.array(f"{name}.image_raw")[..., :3]),
            profile=model_pb2.PROFILE_REFERENCE,
            prompt_template=pb.PROMPT_TEMPLATE_DEMO if demo else pb.PROMPT_TEMPLATE_EVALUATION,
            sampling=pb.SamplingParameters(**{"max_new_tokens": 12, **sampling}),
        )
        if "verbalisation" in case:
            said = case["verbalisation"][0]
            request.auxiliary_sentences.CopyFrom(
                pb.AuxiliarySentences(
                    regions=said["seg"], detections=said["od"], relations=said["sgg"], text=said["ocr"]
                )
            )
            segments = np.maximum(self.array(f"{name}.segmentation"), 0)
            request.segments.CopyFrom(grid(segments))
        else:
            _, _, turn = case["prompt_text"][0].partition("USER: " if demo else "user\n")
            request.verbalized_text = turn[: turn.index(case["prompts"][0])].removesuffix(" ")
            request.crayon.CopyFrom(
                crayon(self.array(f"{name}.crayon_class")[0], self.array(f"{name}.crayon_ordinal")[0])
            )
        return request


def png(pixels: Any) -> image_pb2.Image:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG")
    return image_pb2.Image(data=buffer.getvalue())


def crayon(classes: Any, ordinals: Any) -> pb.CrayonMaps:
    return pb.CrayonMaps(
        height=GRID,
        width=GRID,
        class_indices=bytes(np.asarray(classes, np.uint8)),
        instance_ordinals=bytes(np.asarray(ordinals, np.uint8)),
    )


def grid(segments: Any) -> pb.SegmentGrid:
    rows, columns = segments.shape
    return pb.SegmentGrid(height=rows, width=columns, segment_ids=segments.astype("<u2").tobytes())


@dataclass
class Rig:
    """A server of one model in this process, a client of it, and its golden cases."""

    stub: Any
    admin: Any
    model: ServedModel
    engine: Engine
    runner: VisionLanguageRunner
    golden: Golden

    async def answer(self, request: pb.GenerateRequest) -> tuple[list[int], pb.Done]:
        events = [event async for event in self.stub.Generate(request, timeout=120)]
        assert [event.WhichOneof("event") for event in events] == ["token"] * (len(events) - 1) + ["done"]
        # The stop token is streamed only if it completed the text (half a character before it).
        return [event.token.id for event in events[:-1] if event.token.id != EOS], events[-1].done

    async def refused(self, request: pb.GenerateRequest) -> tuple[str, dict[str, str]]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.answer(request)
        info = error_info(status_from_rpc_error(error.value))
        assert info is not None
        return info.reason, dict(info.metadata)


async def start(golden_dir: Path, kind: str, device: str = "cpu", **changes: Any) -> AsyncIterator[Rig]:
    options = {
        "precision": "fp32", "adapters_dir": golden_dir, "threads": 1, "max_sequences": 8, "max_queue": 16,
        "prefill_chunk": 32, "context_length": None, "answer_reserve": 32, "default_max_new_tokens": 12,
        "kv_tokens": 8192, **changes,
    }  # fmt: skip
    model = assemble_published(
        Checkpoint(golden_dir / "checkpoints" / f"{kind}-tiny"),
        ServingOptions(**options),
        ImageLimits(max_side=512),
        kind="collavo" if kind == "collavo" else "moai",
        device=device,
    )
    metrics = Metrics("llm_server")
    settings = LlmServerSettings(port=0, metrics_port=0, drain_grace_s=1)
    service = GenerationService(lambda: model, metrics, limits=ImageLimits(max_side=512))
    admin = AdapterService(lambda: model)
    servicers = [service.servicer(), admin.servicer()]
    async with Server(settings=settings, servicers=servicers, metrics=metrics) as server:
        await service.warm_up()
        await server.ready()
        async with open_channel(server.address) as channel:
            assert isinstance(model.engine, Engine)
            runner = model.engine._runner
            assert isinstance(runner, VisionLanguageRunner)
            yield Rig(
                generation_pb2_grpc.GenerationServiceStub(channel),
                adapter_admin_pb2_grpc.AdapterAdminServiceStub(channel),
                model,
                model.engine,
                runner,
                Golden.of(golden_dir, kind),
            )
        await service.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collavo(golden_dir: Path) -> AsyncIterator[Rig]:
    async for rig in start(golden_dir, "collavo"):
        yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moai(golden_dir: Path) -> AsyncIterator[Rig]:
    async for rig in start(golden_dir, "moai"):
        yield rig


async def test_collavo_answers_with_the_golden_tokens(collavo: Rig) -> None:
    await golden_tokens(collavo, auxiliary=0)


async def test_moai_answers_with_the_golden_tokens(moai: Rig) -> None:
    await golden_tokens(moai, auxiliary=8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "auxiliary"), [("collavo", 0), ("moai", 8)])
async def test_a_gpu_answers_with_the_golden_tokens(golden_dir: Path, kind: str, auxiliary: int) -> None:
    async for rig in start(golden_dir, kind, "cuda"):
        await golden_tokens(rig, auxiliary=auxiliary)


async def golden_tokens(rig: Rig, *, auxiliary: int) -> None:
    assert len(rig.golden.singles) == 5
    for name in rig.golden.singles:
        ids, done = await rig.answer(rig.golden.request(name))
        assert ids == rig.golden.ids(name, "greedy_ids"), name
        usage, prompt = done.usage, rig.golden.tensors[f"{name}.input_ids"].shape[1]
        assert (usage.text_tokens, usage.image_tokens) == (prompt - 1, GRID**2)
        assert usage.auxiliary_tokens == auxiliary
        assert done.profile == model_pb2.PROFILE_REFERENCE
        case = rig.golden.told[name]
        if case["template"] == "eval":
            assert done.text == case["decoded_trimmed"][0]
        else:
            # The published demonstration leaves the prompt in front.
            assert case["decoded_trimmed"][0].endswith(done.text)
        if f"{name}.beam3_ids" in rig.golden.tensors:
            beams, _ = await rig.answer(rig.golden.request(name, beams=3, max_new_tokens=6))
            assert beams == rig.golden.ids(name, "beam3_ids"), name


async def test_what_is_served_together_is_what_is_served_alone(collavo: Rig, moai: Rig) -> None:
    asked = [
        (rig, rig.golden.request(name, max_new_tokens=length))
        for rig in (collavo, moai)
        for name, length in zip(rig.golden.singles[:4], (12, 9, 5, 12), strict=True)
    ]
    for index, (_, request) in enumerate(asked):
        if index % 2:
            request.profile = model_pb2.PROFILE_SERVING
    alone = [(await rig.answer(request))[0] for rig, request in asked]
    together = await asyncio.gather(*(rig.answer(request) for rig, request in asked))
    assert [ids for ids, _ in together] == alone


async def test_a_second_question_finds_the_picture_read(collavo: Rig, moai: Rig) -> None:
    for rig, kept in ((collavo, True), (moai, False)):
        request = rig.golden.request("c2" if kept else "m2", max_new_tokens=3)
        request.image.CopyFrom(png(np.full((40, 60, 3), 77, np.uint8)))
        await rig.answer(request)
        request.turns[0].text = "What is it?"
        misses = rig.runner.features.misses
        cold, done = await rig.answer(request)
        # System line and picture come before everything that differs; MoAI's mixers look at all of a prompt.
        assert (done.usage.cached_tokens >= 16 * ((40 + GRID**2) // 16)) is kept
        assert rig.runner.features.misses == misses
        again, _ = await rig.answer(request)
        assert again == cold


async def test_another_map_or_picture_is_another_prompt(collavo: Rig) -> None:
    request = collavo.golden.request("c0")
    first, _ = await collavo.answer(request)
    request.crayon.CopyFrom(crayon([3] * 25, [1] * 25))
    other_map, done = await collavo.answer(request)
    assert done.usage.cached_tokens == 0
    request.image.CopyFrom(png(np.full((8, 8, 3), 200, np.uint8)))
    other_picture, done = await collavo.answer(request)
    assert done.usage.cached_tokens == 0
    assert first != other_map != other_picture


async def test_ablations_of_the_crayon_prompt_change_the_answer(collavo: Rig) -> None:
    said: set[float] = set()
    for semantic, numbering, text in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)):
        request = collavo.golden.request("c0")
        request.crayon_ablation.without_semantic = bool(semantic)
        request.crayon_ablation.without_numbering = bool(numbering)
        request.crayon_ablation.without_text = bool(text)
        token, likelihood = await first_token(collavo, request)
        said.add(likelihood)
        if semantic and numbering:
            assert token == int(collavo.golden.tensors["c0.noseg_logits_last"].argmax())
    assert len(said) == 5


async def test_gates_are_reported_and_overridden(moai: Rig) -> None:
    request = moai.golden.request("m0")
    request.gates.report = True
    own, done = await moai.answer(request)
    assert [(one.layer, one.side) for one in done.gates] == [
        (MIXER, pb.GATE_SIDE_IMAGE),
        (MIXER, pb.GATE_SIDE_LANGUAGE),
    ]
    for one, side in zip(done.gates, ("img", "lang"), strict=True):
        mean = moai.golden.tensors[f"m0.mixer{MIXER}.gate_{side}"].float().mean(dim=0)
        assert triple(one) == pytest.approx(mean.tolist(), abs=1e-3)
    for image in range(3):
        for language in range(3):
            del request.gates.overrides[:]
            request.gates.overrides.add(layer=MIXER, side=pb.GATE_SIDE_IMAGE, only=image + 1)
            request.gates.overrides.add(side=pb.GATE_SIDE_LANGUAGE, only=language + 1)
            request.sampling.max_new_tokens = 1
            ids, done = await moai.answer(request)
            golden = moai.golden.tensors[f"m0.step1_img{image}_lang{language}_logits_last"]
            assert ids == [int(golden.argmax())]
            assert [triple(one) for one in done.gates] == [one_of(image), one_of(language)]
    del request.gates.overrides[:]
    request.sampling.max_new_tokens = 12
    weights = pb.ExpertWeights(auxiliary=0.25, cross=0.5, self=0.25)
    request.gates.overrides.add(side=pb.GATE_SIDE_IMAGE, fixed=weights)
    request.gates.overrides.add(
        side=pb.GATE_SIDE_LANGUAGE, blended=pb.BlendedWeights(weights=weights, share=1)
    )
    fixed, done = await moai.answer(request)
    assert [triple(one) for one in done.gates] == [(0.25, 0.5, 0.25)] * 2
    assert fixed != own
    del request.gates.overrides[:]
    request.gates.overrides.add(bias=pb.ExpertWeights())
    nothing, _ = await moai.answer(request)
    assert nothing == own


def triple(one: pb.GateWeights) -> tuple[float, float, float]:
    return one.mean.auxiliary, one.mean.cross, one.mean.self


def one_of(expert: int) -> tuple[float, ...]:
    return tuple(float(number == expert) for number in range(3))


async def test_auxiliary_information_can_be_left_out(moai: Rig) -> None:
    request = moai.golden.request("m0", max_new_tokens=1)
    seen = {(await first_token(moai, request))[1]}
    for source in (pb.AUXILIARY_SOURCE_REGIONS, pb.AUXILIARY_SOURCE_TEXT, pb.AUXILIARY_SOURCE_COLOUR_MAP):
        request.auxiliary_ablation.Clear()
        request.auxiliary_ablation.without.append(source)
        seen.add((await first_token(moai, request))[1])
    request.auxiliary_ablation.Clear()
    request.auxiliary_ablation.off = True
    seen.add((await first_token(moai, request))[1])
    assert len(seen) == 5


async def first_token(rig: Rig, request: pb.GenerateRequest) -> tuple[int, float]:
    """The first token of an answer, and how likely the model found it."""
    request.logprobs = 0
    events = [event async for event in rig.stub.Generate(request, timeout=120)]
    return events[0].token.id, events[0].token.logprob


async def test_what_a_model_is_told_by_listing(collavo: Rig, moai: Rig) -> None:
    infos = [(await rig.stub.ListModels(pb.ListModelsRequest())).models[0] for rig in (collavo, moai)]
    assert [info.model.name for info in infos] == ["collavo-tiny", "moai-tiny"]
    assert [info.verbalization_form for info in infos] == [
        pb.VERBALIZATION_FORM_COLLAVO,
        pb.VERBALIZATION_FORM_MOAI,
    ]
    assert all(info.uses_image and info.requires_image for info in infos)
    assert [(info.uses_crayon, info.crayon_height, info.crayon_width) for info in infos] == [
        (True, GRID, GRID),
        (False, 0, 0),
    ]
    assert [(info.uses_segments, info.segment_height) for info in infos] == [(False, 0), (True, SIDE)]
    assert [list(info.mixer_layers) for info in infos] == [[], [MIXER]]
    assert list(infos[0].profiles) == [model_pb2.PROFILE_SERVING, model_pb2.PROFILE_REFERENCE]
    embedded = await moai.stub.Embed(pb.EmbedRequest(text="Where?"))
    assert len(embedded.values) == 64


Change = Callable[[pb.GenerateRequest], object]


@pytest.mark.parametrize(
    ("kind", "change", "reason", "place"),
    [
        ("collavo", lambda r: r.ClearField("image"), "INVALID_FIELD", "image"),
        ("moai", lambda r: r.ClearField("image"), "INVALID_FIELD", "image"),
        ("collavo", lambda r: setattr(r.crayon, "height", 4), "CRAYON_MALFORMED", ""),
        ("collavo", lambda r: setattr(r.crayon, "class_indices", bytes([134] * 25)), "CRAYON_MALFORMED", ""),
        (
            "collavo",
            lambda r: setattr(r.crayon, "instance_ordinals", bytes([21] * 25)),
            "CRAYON_MALFORMED",
            "",
        ),
        ("collavo", lambda r: r.adapters.adapters.add(name="vl"), "ADAPTER_NOT_FOUND", ""),
        ("collavo", lambda r: r.gates.overrides.add(only=1), "UNSUPPORTED_OPTION", ""),
        ("collavo", lambda r: r.segments.CopyFrom(grid(np.zeros((2, 2)))), "UNSUPPORTED_OPTION", ""),
        ("moai", lambda r: r.crayon_ablation.SetInParent(), "UNSUPPORTED_OPTION", ""),
        ("moai", lambda r: r.segments.CopyFrom(grid(np.zeros((5, 5)))), "INVALID_FIELD", "segments"),
        ("moai", lambda r: setattr(r.segments, "segment_ids", b"1"), "INVALID_FIELD", "segments.segment_ids"),
        (
            "moai",
            lambda r: r.segments.CopyFrom(grid(np.full((SIDE, SIDE), 134))),
            "INVALID_FIELD",
            "segments.segment_ids",
        ),
        (
            "moai",
            lambda r: r.gates.overrides.add(layer=3, only=1),
            "INVALID_FIELD",
            "gates.overrides[0].layer",
        ),
        (
            "moai",
            lambda r: r.gates.overrides.add(fixed=pb.ExpertWeights(self=-1)),
            "INVALID_FIELD",
            "gates.overrides[0].fixed",
        ),
        (
            "moai",
            lambda r: r.gates.overrides.extend(TWICE),
            "INVALID_FIELD",
            "gates.overrides[1]",
        ),
        ("moai", lambda r: setattr(r, "verbalized_text", "A wall."), "INVALID_FIELD", "auxiliary_sentences"),
        ("collavo", lambda r: setattr(r.image, "data", b"\x89PNG\r\n\x1a\n"), "IMAGE_CORRUPT", ""),
        ("collavo", lambda r: r.image.CopyFrom(png(np.zeros((2, 600, 3), np.uint8))), "IMAGE_TOO_LARGE", ""),
        ("collavo", lambda r: setattr(r.turns[0], "text", "word " * 200_000), "PROMPT_TOO_LONG", ""),
        (
            "collavo",
            lambda r: r.turns.extend([pb.Turn(role=pb.ROLE_USER, text="And?")]),
            "INVALID_FIELD",
            "turns",
        ),
    ],
)
async def test_what_cannot_be_answered_is_named(
    collavo: Rig, moai: Rig, kind: str, change: Change, reason: str, place: str
) -> None:
    rig = collavo if kind == "collavo" else moai
    request = rig.golden.request(rig.golden.singles[0])
    change(request)
    told, metadata = await rig.refused(request)
    assert told == reason
    if place:
        assert metadata["field"] == place


async def test_odd_pictures_and_texts_are_answered(collavo: Rig, moai: Rig) -> None:
    for rig in (collavo, moai):
        request = rig.golden.request(rig.golden.singles[0], max_new_tokens=2)
        request.image.CopyFrom(png(np.full((9, 31), 90, np.uint8)))  # grey
        ids, _ = await rig.answer(request)
        request.image.CopyFrom(png(np.full((9, 31, 3), 90, np.uint8)))
        assert (await rig.answer(request))[0] == ids
        # Control tokens spelled out are words: the answer goes on, and no second picture is looked for.
        request.turns[0].text = "<image> [UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n<s></s> yes"
        _, done = await rig.answer(request)
        assert done.usage.image_tokens == GRID**2
        request.ClearField("crayon" if rig is collavo else "segments")
        await rig.answer(request)
        turns = [pb.Turn(role=pb.ROLE_ASSISTANT, text="A sky."), pb.Turn(role=pb.ROLE_USER, text="Sure?")]
        request.turns.extend(turns)
        longer = (await rig.answer(request))[1].usage
        assert longer.text_tokens > done.usage.text_tokens


async def test_a_model_without_adapters_says_so(collavo: Rig) -> None:
    assert not (await collavo.stub.ListAdapters(pb.ListAdaptersRequest())).adapters
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await collavo.admin.LoadAdapter(adapter_admin_pb2.LoadAdapterRequest(name="vl"))
    info = error_info(status_from_rpc_error(error.value))
    assert info is not None
    assert info.reason == "UNSUPPORTED_OPTION"


async def test_an_answer_that_loses_its_place_comes_out_the_same(golden_dir: Path) -> None:
    """Two MoAI prompts fit one at a time: the later is read again, its mixers over the prompt alone."""
    async for rig in start(golden_dir, "moai", kv_tokens=256, max_sequences=2, prefix_reuse=False):
        requests = [rig.golden.request(name, max_new_tokens=40) for name in ("m0", "m2")]
        for request in requests:
            request.profile = model_pb2.PROFILE_REFERENCE
        alone = [(await rig.answer(request))[0] for request in requests]
        # On a busy machine one may be done before the other comes.
        for _ in range(5):
            together = await asyncio.gather(*(rig.answer(request) for request in requests))
            assert [ids for ids, _ in together] == alone
            if rig.engine.usage.preemptions:
                break
        assert rig.engine.usage.preemptions > 0


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
async def test_the_process_loads_what_its_settings_say(golden_dir: Path, precision: Any) -> None:
    settings = LlmServerSettings(
        model="collavo",
        checkpoint=golden_dir / "checkpoints" / "collavo-tiny",
        checkpoint_precision=precision,
        profile="reference",
        threads=1,
    )
    model = load(settings)
    service = GenerationService(lambda: model, Metrics("llm_server"), limits=settings.image_limits)
    try:
        await service.warm_up()
    finally:
        await service.close()
    assert (model.name, model.precision) == ("collavo-tiny", precision)
    assert model.prompting.traits.profiles == ("reference", "serving")


async def test_a_checkpoint_of_the_other_model_is_refused(golden_dir: Path) -> None:
    settings = LlmServerSettings(model="moai", checkpoint=golden_dir / "checkpoints" / "collavo-tiny")
    with pytest.raises(ValueError, match="collavo"):
        load(settings)
