"""The contenders of `bench.llm`: this project's engine, and three ways to serve the same model with transformers.

All have the same values: the base in NF4, unpacked to bfloat16, with both shipped adapters over it. Those that are
called `-merged` have the adapters added to the weights ahead of time: quicker, rounded once more, and the same for all
callers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

import llm_server
from bench.llm_summary import MERGED
from bench.llm_workload import Answerer, Ask, Heard
from llm_server import base_checkpoint, base_model
from llm_server.adapter_files import read_adapters
from llm_server.polysight_smol import ServingOptions, assemble
from llm_server.sampling import SamplingParams
from llm_server.sequence import AdapterScales, FailedEvent, GenerationRequest, TokenEvent
from llm_server.served_model import ServedModel, WeightsRecord
from serving.weights import WeightStore

PRECISION: Final[base_checkpoint.Precision] = "nf4-dequantised"
ADAPTERS = Path(llm_server.__file__).parent / "adapters"
CONTENDERS: Final = ("polysight", "generate", "generate-merged", "static-batch", "continuous-batching")
#: Measured when all is asked for.
MORE_CONTENDERS: Final = ("static-batch-merged", "continuous-batching-merged")


def load() -> tuple[Any, Any]:
    """The base and its tokenizer."""
    folder = base_checkpoint.served_checkpoint(WeightStore(), PRECISION)
    return base_model.load_model(folder, PRECISION), base_model.load_tokenizer(folder)


def served(model: Any, tokenizer: Any, *, threads: int, slots: int, reuse: bool = True) -> ServedModel:
    """This project's engine, started."""
    options = ServingOptions(
        precision=PRECISION,
        adapters_dir=ADAPTERS,
        threads=threads,
        max_sequences=slots,
        max_queue=64,
        prefill_chunk=256,
        context_length=None,
        answer_reserve=64,
        default_max_new_tokens=256,
        prefix_reuse=reuse,
    )
    built = assemble(model, tokenizer, WeightsRecord(base_checkpoint.ARTIFACT, "", "Apache-2.0"), options)
    built.engine.start()
    return built


def engine_answerer(model: ServedModel, adapters: AdapterScales | None = None) -> Answerer:
    """Ask the engine, as the service does."""

    def answer(ask: Ask) -> Heard:
        events: queue.Queue[Any] = queue.Queue()
        request = GenerationRequest(
            prompt=ask.prompt,
            sampling=SamplingParams(max_new_tokens=ask.answer),
            seed=0,
            end_tokens=frozenset(),
            adapters=model.default_adapters if adapters is None else adapters,
            shared=ask.shared,
        )
        heard, asked = Heard(), time.perf_counter()
        model.engine.submit(request, lambda event: events.put((time.perf_counter(), event)))
        while True:
            at, event = events.get(timeout=600)
            if isinstance(event, FailedEvent):
                raise event.error
            if not isinstance(event, TokenEvent):
                return heard
            heard.tokens.append(event.token)
            heard.at.append(at - asked)

    return answer


def peft_model(model: Any, *, merged: bool) -> Any:
    """Both adapters over the base by peft, active or added to the weights."""
    from peft import PeftModel

    adapters = read_adapters(ADAPTERS, base=base_checkpoint.NAME)
    first, *others = adapters
    over: Any = PeftModel.from_pretrained(model, str(first.folder), adapter_name=first.name)
    for other in others:
        over.load_adapter(str(other.folder), adapter_name=other.name)
    names = [adapter.name for adapter in adapters]
    over.base_model.set_adapter(names)
    over = over.eval()
    return over.merge_and_unload(adapter_names=names) if merged else over


class _Clock:
    """A stopping criterion that never stops, and notes when each token came."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.at.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], length: int
) -> tuple[list[list[int]], list[float]]:
    """transformers' `generate` for ``prompts`` at once, padded on the left: ids, and when each step was done."""
    from transformers import StoppingCriteriaList

    longest = max(len(one) for one in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, one in enumerate(prompts):
        ids[row, longest - len(one) :] = torch.tensor(one)
        mask[row, longest - len(one) :] = 1
    clock = _Clock()
    out: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=length,
        max_new_tokens=length,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    return out[:, longest:].tolist(), clock.at


def one_after_another(model: Any) -> Answerer:
    """Each caller waits for those before it."""
    lock = threading.Lock()

    def answer(ask: Ask) -> Heard:
        asked = time.perf_counter()
        with lock:
            ids, at = generate(model, [ask.prompt], ask.answer)
        return Heard(ids[0], [moment - asked for moment in at])

    return answer


def static_batch(model: Any, most: int) -> tuple[Answerer, Callable[[], None]]:
    """Who waits when the model is free makes the next batch, which lasts as long as its longest answer."""
    waiting: queue.Queue[tuple[Ask, float, queue.Queue[Heard]] | None] = queue.Queue()

    def run() -> None:
        while (first := waiting.get()) is not None:
            batch = [first]
            # Whoever is about to ask again after the last batch is let in: otherwise batches of one would alternate.
            time.sleep(0.01)
            while len(batch) < most and not waiting.empty():
                other = waiting.get()
                if other is None:
                    break
                batch.append(other)
            length = max(ask.answer for ask, _, _ in batch)
            ids, at = generate(model, [ask.prompt for ask, _, _ in batch], length)
            for row, (ask, asked, reply) in zip(ids, batch, strict=True):
                reply.put(Heard(row[: ask.answer], [moment - asked for moment in at[: ask.answer]]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def answer(ask: Ask) -> Heard:
        reply: queue.Queue[Heard] = queue.Queue()
        waiting.put((ask, time.perf_counter(), reply))
        return reply.get(timeout=600)

    def close() -> None:
        waiting.put(None)
        thread.join()

    return answer, close


def continuous_batching(model: Any, most: int) -> tuple[Answerer, Callable[[], None]]:
    """transformers' own continuous batching. Raises whatever it raises where it cannot run."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    make_config: Any = GenerationConfig  # untyped
    config: Any = make_config(do_sample=False, max_new_tokens=48, eos_token_id=-1, pad_token_id=0)
    # As many positions as this project's engine has; left to itself it takes most of the machine's memory.
    room: Any = ContinuousBatchingConfig(
        page_size=16, num_blocks=1024, max_batch_tokens=max(512, most), use_cuda_graph=False
    )
    manager: Any = model.init_continuous_batching(generation_config=config, continuous_batching_config=room)
    manager.start()
    arrivals: dict[str, queue.Queue[tuple[float, Any]]] = {}

    def hand_out() -> None:
        while manager.is_running():
            result = manager.get_result(timeout=0.2)
            if result is not None and result.request_id in arrivals:
                arrivals[result.request_id].put((time.perf_counter(), result))

    thread = threading.Thread(target=hand_out, daemon=True)
    thread.start()

    def answer(ask: Ask) -> Heard:
        asked, heard = time.perf_counter(), Heard()
        name = f"{asked}-{threading.get_ident()}"
        replies = arrivals.setdefault(name, queue.Queue())
        manager.add_request(list(ask.prompt), request_id=name, max_new_tokens=ask.answer, streaming=True)
        while len(heard.tokens) < ask.answer:
            at, result = replies.get(timeout=120)
            if result.error:
                raise RuntimeError(result.error)
            new = len(result.generated_tokens) - len(heard.tokens)
            heard.tokens = list(result.generated_tokens)[: ask.answer]
            heard.at += [at - asked] * new
            if result.is_finished():
                break
        return heard

    def close() -> None:
        manager.stop(block=True)

    return answer, close


def start(
    name: str, model: Any, tokenizer: Any, *, threads: int, most: int
) -> tuple[Answerer, Callable[[], None]]:
    """Contender ``name`` over ``model``, which it takes for itself, for ``most`` callers.

    Returned are what answers, and what ends it. Raises ValueError for another name.
    """
    if name == "polysight":
        ours = served(model, tokenizer, threads=threads, slots=most)
        return engine_answerer(ours), ours.engine.close
    merged = name.endswith(MERGED)
    over = peft_model(model, merged=merged)
    match name.removesuffix(MERGED):
        case "generate":
            return one_after_another(over), lambda: None
        case "static-batch":
            return static_batch(over, most)
        case "continuous-batching":
            return continuous_batching(over if merged else over.base_model.model, most)
    raise ValueError(f"there is no contender {name!r}")
