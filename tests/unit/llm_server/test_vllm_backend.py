"""The vLLM backend against a fake with vLLM's interface: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llm_server.__main__ import load
from llm_server.adapter_files import AdapterFiles, read_adapter
from llm_server.adapter_registry import registry_of
from llm_server.faults import (
    DeadlineFault,
    EngineClosedFault,
    GenerationFault,
    QueueFullFault,
    UnknownAdapterFault,
)
from llm_server.request import parse_request
from llm_server.sampling import SamplingParams
from llm_server.sequence import (
    Event,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    GenerationRequest,
    TokenEvent,
)
from llm_server.served_model import WeightsRecord
from llm_server.serving_options import ServingOptions
from llm_server.settings import LlmServerSettings
from llm_server.tiny_model import BASE_NAME, tiny_tokenizer
from llm_server.vllm_api import VllmApi, VllmMissingError, engine_arguments, load_api, vllm_installed
from llm_server.vllm_backend import VllmEngine, VllmOptions
from llm_server.vllm_model import assemble_vllm
from polysight.llm.v1 import generation_pb2
from serving.errors import UnsupportedOptionError
from serving.image import ImageLimits

END = 3
BYTES = tuple(bytes([number]) if number > 3 else b"" for number in range(128))


@dataclass
class FakeLogprob:
    logprob: float


@dataclass
class FakeCompletion:
    token_ids: Sequence[int]
    finish_reason: str | None = None
    logprobs: Sequence[Mapping[int, FakeLogprob]] | None = None


@dataclass
class FakeOutput:
    outputs: Sequence[FakeCompletion]
    num_cached_tokens: int | None = 0


@dataclass
class FakeEngine:
    """Counts on from the prompt's last token, two at a time, as vLLM would say it; "z" breaks it, "~" stalls it."""

    arguments: Mapping[str, Any]
    asked: list[tuple[Any, dict[str, Any], str, Any, int]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ended: bool = False

    async def generate(
        self,
        prompt: Any,
        sampling_params: dict[str, Any],
        request_id: str,
        *,
        lora_request: Any | None = None,
        priority: int = 0,
    ) -> AsyncIterator[FakeOutput]:
        self.asked.append((prompt, sampling_params, request_id, lora_request, priority))
        token = prompt["prompt_token_ids"][-1]
        if token == ord("z"):
            raise RuntimeError("the device is on fire")
        try:
            said = 0
            while True:
                await asyncio.sleep(3600 if token == ord("~") else 0)
                new: list[int] = []
                reason = None
                while len(new) < 2 and reason is None:
                    token += 1
                    new.append(END if token == ord("n") else token)
                    said += 1
                    if new[-1] in sampling_params["stop_token_ids"]:
                        reason = "stop"
                    elif said == sampling_params["max_tokens"]:
                        reason = "length"
                count = sampling_params["logprobs"]
                logprobs = count and [
                    {one: FakeLogprob(-1.5), 7: FakeLogprob(-0.5), 5: FakeLogprob(-0.5)} for one in new
                ]
                yield FakeOutput([FakeCompletion(new, reason, logprobs or None)], 4)
                if reason is not None:
                    return
        finally:
            self.left.append(request_id)

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def shutdown(self) -> None:
        self.ended = True


class Rig:
    def __init__(self, scratch: Path, files: list[AdapterFiles], **changes: int) -> None:
        self.made: list[FakeEngine] = []
        options = {"context_length": 64, "max_sequences": 4, "max_queue": 4, **changes}
        api = VllmApi(self._make, dict, lambda name, number, path: (name, number, path), "delta")
        self.engine = VllmEngine(
            api,
            BYTES,
            VllmOptions(arguments={"model": "m"}, scratch=scratch, **options),
            registry=registry_of(files),
        )

    def _make(self, arguments: Mapping[str, Any]) -> FakeEngine:
        assert threading.current_thread().name == "vllm"
        asyncio.get_running_loop()
        self.made.append(FakeEngine(arguments))
        return self.made[-1]

    @property
    def fake(self) -> FakeEngine:
        return self.made[0]

    def run(self, request: GenerationRequest) -> list[Event]:
        events: queue.Queue[Event] = queue.Queue()
        self.engine.submit(request, events.put)
        got = [events.get(timeout=60)]
        while isinstance(got[-1], TokenEvent):
            got.append(events.get(timeout=60))
        return got


@contextmanager
def running(scratch: Path, files: list[AdapterFiles], **changes: int) -> Iterator[Rig]:
    rig = Rig(scratch, files, **changes)
    rig.engine.start()
    try:
        yield rig
    finally:
        rig.engine.close()


@pytest.fixture
def rig(tmp_path: Path, adapter_files: list[AdapterFiles]) -> Iterator[Rig]:
    with running(tmp_path, adapter_files) as one:
        yield one


def request(text: str = "a", most: int = 5, **changes: Any) -> GenerationRequest:
    sampling = SamplingParams(max_new_tokens=most, **changes.pop("sampling", {}))
    fields = {"seed": 0, "end_tokens": frozenset({END}), **changes}
    return GenerationRequest(prompt=tuple(text.encode()), sampling=sampling, **fields)


def finish(events: list[Event]) -> FinishedEvent:
    assert isinstance(events[-1], FinishedEvent)
    return events[-1]


def fault(events: list[Event]) -> Exception:
    assert isinstance(events[-1], FailedEvent)
    return events[-1].error


@pytest.mark.parametrize(
    ("asked", "reason", "text", "tokens"),
    [
        (request("a", most=3), FinishReason.LENGTH, "bcd", 3),
        (request("k", most=9), FinishReason.END_OF_TURN, "lm", 3),
        (request("a", most=9, stop=("ef",)), FinishReason.STOP_STRING, "bcd", 5),
        (request("A" * 60, most=50), FinishReason.LENGTH, "BCDE", 4),
    ],
    ids=["length", "end", "stop", "context"],
)
def test_answers_end_as_those_of_the_own_engine(
    rig: Rig, asked: GenerationRequest, reason: FinishReason, text: str, tokens: int
) -> None:
    events = rig.run(asked)
    end = finish(events)
    assert (end.reason, end.text, end.generated_tokens, end.cached_tokens) == (reason, text, tokens, 4)
    assert "".join(event.text for event in events if isinstance(event, TokenEvent)) == text
    # Nothing goes on behind an answer that ended here.
    assert rig.fake.left == rig.fake.aborted == [rig.fake.asked[0][2]]


def test_the_request_is_put_in_vllms_words(rig: Rig) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    rig.run(request("ab", most=3, sampling=sampling, seed=2**64 - 1, priority=2))
    prompt, asked, _, adapter, priority = rig.fake.asked[0]
    assert (prompt, adapter, priority) == ({"prompt_token_ids": [97, 98]}, None, -2)
    assert asked == {
        **sampling,
        "top_k": -1,
        "seed": 2**63 - 1,
        "max_tokens": 3,
        "stop_token_ids": [END],
        "logprobs": None,
        "detokenize": False,
        "output_kind": "delta",
    }


def test_log_probabilities_come_along(rig: Rig) -> None:
    events = rig.run(request("a", most=2, logprobs=2))
    said = [event.logprobs for event in events if isinstance(event, TokenEvent)]
    assert [(one.chosen, one.likeliest) for one in said if one] == [(-1.5, ((5, -0.5), (7, -0.5)))] * 2


def test_a_set_of_adapters_is_written_once_as_one(rig: Rig) -> None:
    both = (("object", 0.5), ("vl", 2.0))
    for adapters in (both, both, (("vl", 1.0),)):
        rig.run(request(adapters=adapters))
    first, second, other = (one[3] for one in rig.fake.asked)
    assert first == second
    assert (first[1], other[1]) == (1, 2)
    assert read_adapter(Path(first[2]), base=BASE_NAME).rank == 6
    assert read_adapter(Path(other[2]), base=BASE_NAME).rank == 2


def test_joined_adapters_go_with_the_engine(tmp_path: Path, adapter_files: list[AdapterFiles]) -> None:
    with running(tmp_path, adapter_files) as rig:
        rig.run(request(adapters=(("object", 0.5), ("vl", 2.0))))
        folder = Path(rig.fake.asked[0][3][2])
        assert folder.is_relative_to(tmp_path)
        assert folder.is_dir()
    assert [*tmp_path.iterdir()] == []
    assert all(one.weights.is_file() for one in adapter_files)


def test_an_engine_that_did_not_start_leaves_no_folder(
    tmp_path: Path, adapter_files: list[AdapterFiles]
) -> None:
    def broken(arguments: Mapping[str, Any]) -> FakeEngine:
        raise RuntimeError("no device")

    options = VllmOptions(arguments={}, scratch=tmp_path, context_length=64, max_sequences=4, max_queue=4)
    api = VllmApi(broken, dict, lambda name, number, path: (name, number, path), "delta")
    engine = VllmEngine(api, BYTES, options, registry=registry_of(adapter_files))
    with pytest.raises(RuntimeError, match="no device"):
        engine.start()
    engine.close()
    assert [*tmp_path.iterdir()] == []


def test_what_vllm_is_not_asked_for_is_refused(rig: Rig) -> None:
    with pytest.raises(UnsupportedOptionError, match="beams"):
        rig.engine.submit(request(sampling={"beams": 2}), print)
    with pytest.raises(UnknownAdapterFault):
        rig.engine.submit(request(adapters=(("nobody", 1.0),)), print)
    with pytest.raises(ValueError, match="1 to 63"):
        rig.engine.submit(request("a" * 64), print)


def test_a_failure_is_the_requests_own(rig: Rig) -> None:
    assert isinstance(fault(rig.run(request("z"))), GenerationFault)
    assert finish(rig.run(request("a"))).text == "bcdef"


def test_a_deadline_ends_a_request_that_stalls(rig: Rig) -> None:
    deadline = rig.engine._clock() + 0.05
    assert isinstance(fault(rig.run(request("~", deadline=deadline))), DeadlineFault)
    assert rig.fake.left == [rig.fake.asked[0][2]]


def test_a_cancelled_request_is_silent_and_gone(rig: Rig) -> None:
    events: list[Event] = []
    sequence = rig.engine.submit(request("~"), events.append)
    rig.engine.cancel(sequence)
    assert finish(rig.run(request("a"))).text == "bcdef"
    rig.engine.close()
    assert (events, rig.engine.load) == ([], (0, 0))


def test_a_full_queue_refuses_and_closing_fails_what_is_left(
    tmp_path: Path, adapter_files: list[AdapterFiles]
) -> None:
    events: list[Event] = []
    with running(tmp_path, adapter_files, max_sequences=1, max_queue=1) as rig:
        for _ in range(2):
            rig.engine.submit(request("~"), events.append)
        assert (rig.engine.load, rig.engine.usage.waiting) == ((1, 1), 1)
        with pytest.raises(QueueFullFault):
            rig.engine.check_room()
    assert [type(fault([event])) for event in events] == [EngineClosedFault] * 2
    assert rig.fake.ended
    with pytest.raises(EngineClosedFault):
        rig.engine.submit(request("a"), print)


@pytest.mark.skipif(vllm_installed(), reason="vLLM is installed here")
def test_without_vllm_the_message_says_what_to_do() -> None:
    with pytest.raises(VllmMissingError, match="not installed"):
        load_api()


@pytest.mark.skipif(vllm_installed(), reason="vLLM is installed here")
def test_the_server_that_was_told_to_use_it_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_BACKEND", "vllm")
    with pytest.raises(VllmMissingError, match="not installed"):
        load(LlmServerSettings())


def test_models_with_crayons_or_mixers_are_not_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_BACKEND", "vllm")
    monkeypatch.setenv("LLM_SERVER_CHECKPOINT", "somewhere")
    monkeypatch.setenv("LLM_SERVER_MODEL", "moai")
    with pytest.raises(ValidationError, match="vllm cannot compute"):
        LlmServerSettings()


async def test_the_default_model_is_served_by_it(tmp_path: Path, adapters_root: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 320, "max_position_embeddings": 512}', "utf-8")
    made: list[FakeEngine] = []

    def make(arguments: Mapping[str, Any]) -> FakeEngine:
        made.append(FakeEngine(arguments))
        return made[-1]

    model = assemble_vllm(
        VllmApi(make, dict, lambda name, number, path: (name, number, path), "delta"),
        tmp_path,
        tiny_tokenizer(),
        WeightsRecord("tiny", "00" * 32, "Apache-2.0"),
        ServingOptions(
            precision="bf16",
            adapters_dir=adapters_root,
            threads=1,
            max_sequences=4,
            max_queue=4,
            prefill_chunk=16,
            context_length=128,
            answer_reserve=32,
            default_max_new_tokens=6,
        ),
        name="tiny",
        base=BASE_NAME,
        adapter_licence="Apache-2.0",
    )
    asked = generation_pb2.GenerateRequest(
        turns=[generation_pb2.Turn(role=generation_pb2.ROLE_USER, text="How many?")]
    )
    wanted = parse_request(asked, model, ImageLimits(), deadline=None)
    events: queue.Queue[Event] = queue.Queue()
    model.engine.start()
    try:
        model.engine.submit(wanted, events.put)
        got = [await asyncio.to_thread(events.get, timeout=60)]
        while isinstance(got[-1], TokenEvent):
            got.append(await asyncio.to_thread(events.get, timeout=60))
        joined = Path(made[0].asked[0][3][2])
        assert read_adapter(joined, base=BASE_NAME).rank == 6
    finally:
        model.engine.close()
    assert not joined.parent.exists()
    assert finish(got).prompt_tokens == len(wanted.prompt)
    assert (made[0].arguments["max_lora_rank"], made[0].arguments["max_model_len"]) == (8, 128)
    with pytest.raises(UnsupportedOptionError, match="embeds"):
        model.embedder.submit([1], ())


@pytest.mark.parametrize(("rank", "allowed"), [(1, 8), (8, 8), (9, 16), (48, 64)])
def test_the_rank_asked_for_is_one_that_vllm_allows(rank: int, allowed: int) -> None:
    arguments = engine_arguments(Path("m"), context_length=512, max_sequences=8, max_rank=rank)
    assert arguments["max_lora_rank"] == allowed
