"""How fast does the language model server answer one caller, and many at once?

    python -m bench.llm [--json] [--streams 1,4,8,16] [--threads 2] [--each 2]

Side by side, each in a process of its own, one after another, with the same values (the base in NF4, unpacked to
bfloat16; both shipped adapters) and the same questions: this project's engine; transformers' `generate`, one request
after another; the same with the adapters merged into the weights; `generate` for a static batch of whoever waits;
transformers' continuous batching, where it runs. Callers begin at random moments and ask one question after another,
each about a picture of its own, with answers of 16 to 48 tokens.

- `streams`: for each number of callers and each contender tokens/s, time to first token, time between tokens (p50 and
  p99). What answers one at a time is measured with one caller only, and has those tokens/s however many wait.
- `ratio_1`, `ratio_8`: tokens/s of the engine over the best of the others that keep the adapters apart, as the engine
  does (bars: 1.0 and 1.3). `ratio_1_merged`, `ratio_8_merged`: over the best of all, the merged one included.
- `second_question_ttft_ratio`: time to the first token of a second question about a picture over that of the first
  (bar: 0.35); `second_question.same_tokens_as_cold` says for how many pictures an engine that remembers nothing gave
  the very same answer.
- `mixed_adapter_step_ratio`: a decoding step of eight rows with eight sets of adapters over one with one set (1.15).
- `memory_mb`: resident memory of each process once it is loaded, and at its most.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ONE_AT_A_TIME = ("generate", "generate-merged")
PICTURES = 5


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of callers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--each", type=int, default=2, help="questions of each caller")
    parser.add_argument("--contenders", default="", help="only these, by name")
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.streams.split(",")]
    if arguments.contender:
        print(json.dumps(compete(arguments.contender, levels, arguments.threads, arguments.each)))
        return
    from bench.llm_contenders import CONTENDERS

    wanted = arguments.contenders.split(",") if arguments.contenders else CONTENDERS
    told = {name: in_a_process(name, arguments) for name in wanted}
    result = summary(told, levels)
    show(result, levels)
    if arguments.json:
        print(json.dumps(result))


def in_a_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One contender's figures, or why there are none."""
    Console(stderr=True).print(f"[dim]{name} …[/]")
    command = [sys.executable, "-m", "bench.llm", "--contender", name]
    command += ["--streams", arguments.streams, "--threads", str(arguments.threads)]
    command += ["--each", str(arguments.each)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1][:300]}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compete(name: str, levels: list[int], threads: int, each: int) -> dict[str, Any]:
    """Run one contender in this process."""
    import torch
    from transformers.utils import logging

    from bench import llm_contenders as contenders
    from bench.llm_workload import Ask, asks, listen

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model, tokenizer = contenders.load()
    extra: dict[str, Any] = {}
    close = lambda: None  # noqa: E731
    if name == "polysight":
        ours = contenders.served(model, tokenizer, threads=threads, slots=max(levels))
        answerer = contenders.engine_answerer(ours)
        close = ours.engine.close
    else:
        over = contenders.peft_model(model, merged=name == "generate-merged")
        if name in ONE_AT_A_TIME:
            answerer, levels = contenders.one_after_another(over), [1]
        elif name == "static-batch":
            answerer, close = contenders.static_batch(over, max(levels))
        else:
            answerer, close = contenders.continuous_batching(over.base_model.model, max(levels))
    answerer(Ask(asks(tokenizer, 1, each=1, seed=77)[0][0].prompt, 4))  # warm
    extra["loaded_mb"] = resident_mb()
    figures = {
        str(level): listen(answerer, asks(tokenizer, level, each=max(each, 3) if level == 1 else each))
        for level in levels
    }
    extra["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if name == "polysight":
        from bench.llm_engine_figures import adapter_steps, cold_answerer, second_question

        cold, other = cold_answerer(threads=threads)
        extra["second_question"] = second_question(tokenizer, answerer, cold, PICTURES)
        other.engine.close()
        extra["adapter_steps"] = adapter_steps()
    close()
    return {"streams": figures, **extra, "load_average": os.getloadavg()[0]}


def resident_mb() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def summary(told: dict[str, dict[str, Any]], levels: list[int]) -> dict[str, Any]:
    """The contenders' figures by number of callers, and the ratios."""
    streams: dict[str, dict[str, Any]] = {}
    for level in levels:
        streams[str(level)] = {
            name: figures["streams"].get(str(level), figures["streams"].get("1"))
            for name, figures in told.items()
            if "error" not in figures
        }
    ours = told.get("polysight", {})
    second, steps = ours.get("second_question", {}), ours.get("adapter_steps", {})
    result: dict[str, Any] = {"streams": streams}
    for level in (1, 8):
        result[f"ratio_{level}"] = ratio(streams.get(str(level), {}), merged=False)
        result[f"ratio_{level}_merged"] = ratio(streams.get(str(level), {}), merged=True)
    return {
        **result,
        "second_question_ttft_ratio": second.get("ratio"),
        "mixed_adapter_step_ratio": steps.get("ratio"),
        "second_question": second,
        "adapter_steps": steps,
        "memory_mb": {
            name: {"loaded": figures["loaded_mb"], "peak": figures["peak_mb"]}
            for name, figures in told.items()
            if "error" not in figures
        },
        "load_average": {name: figures.get("load_average") for name, figures in told.items()},
        "not_run": {name: figures["error"] for name, figures in told.items() if "error" in figures},
    }


def ratio(level: dict[str, Any], *, merged: bool) -> float | None:
    """Tokens/s of the engine over the best of the others."""
    others = [
        figures["tokens_per_s"]
        for name, figures in level.items()
        if name != "polysight" and (merged or not name.endswith("-merged"))
    ]
    if "polysight" not in level or not others:
        return None
    return round(float(level["polysight"]["tokens_per_s"]) / max(others), 2)


def show(result: dict[str, Any], levels: list[int]) -> None:
    """A table for people, on standard error."""
    table = Table("callers", "contender", "tokens/s", "TTFT p50 / p99 ms", "between tokens p50 / p99 ms")
    for level in levels:
        for name, figures in result["streams"][str(level)].items():
            table.add_row(
                str(level),
                name,
                f"{figures['tokens_per_s']:.1f}",
                f"{figures['ttft_ms_p50']} / {figures['ttft_ms_p99']}",
                f"{figures['inter_token_ms_p50']} / {figures['inter_token_ms_p99']}",
            )
    console = Console(stderr=True)
    console.print(table)
    console.print({key: value for key, value in result.items() if key != "streams"})


if __name__ == "__main__":
    main()
