"""How fast does the language model server answer one caller, and many at once?

    python -m bench.llm [--json] [--streams 1,4,8,16] [--all] [--seconds 240] [--rounds 3] [--threads 2]

Side by side in one run, each in a process of its own, with the same values (the base in NF4, unpacked to bfloat16;
both shipped adapters) and the same questions: this project's engine; transformers' `generate`, one request after
another; the same with the adapters merged into the weights; `generate` for a static batch of whoever waits;
transformers' continuous batching, where it runs; llama.cpp, where llama-cpp-python is installed. Callers begin at
random moments and ask one question after another, each about a picture of its own, with answers of 16 to 48 tokens;
within a number of callers everybody is asked the same. The engine is measured at each number of callers, the others at
1 and 8, where there are bars; `--all` measures them at each, and two more: both ways to batch with merged adapters.

One round takes about four minutes on two cores; further ones (to `--rounds`), with other questions, follow only while
they are likely to end within `--seconds`. What was measured is told also if a part fails or the run is interrupted.

- `streams`: for each number of callers and each contender tokens/s, time to first token, time between tokens (p50 and
  p99), resident memory. `tokens_per_cpu_s` is over processor time: what a machine that others use too tells more
  reliably. `measured_as` marks what was not measured itself: who answers one at a time has the same tokens/s however
  many wait, and a static batch of one is `generate`.
- `ratio_1`, `ratio_8`: tokens/s of the engine over the best of the others that keep the adapters apart, as it does
  itself, so that each request can have its own (bars: 1.0 and 1.3). `ratio_1_merged`, `ratio_8_merged`: over the best
  of all, merged ones included. `ratio_1_against` and so on: which that is. `ratios_1`, `ratios_8`: over each of them;
  `cpu_ratios_...`: of tokens per second of processor time. llama.cpp, which has no adapters, is in these lists alone.
- `second_question_ttft_ratio`: time to the first token of a second question about a picture over that of the first
  (bar: 0.35); `second_question.same_tokens_as_cold` says for how many pictures an engine that remembers nothing gave
  the very same answer.
- `mixed_adapter_step_ratio`: a decoding step of eight rows with eight sets of adapters over one with one set (1.15).
- `memory_mb`: resident memory of each process once it is loaded, weights included, and at its most.
- `failed`, `absent`, `interrupted`: who failed and with what, who was not there, whether the run was cut short.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # who forks must not have its threads

import argparse
import json
import signal
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def main() -> None:
    """Entry point."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of callers")
    parser.add_argument("--threads", type=int, default=cores, help="of torch")
    parser.add_argument("--seconds", type=float, default=240.0, help="within which further rounds should end")
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--all", action="store_true", help="all contenders at all numbers of callers")
    parser.add_argument("--contenders", default="", help="only these, by name")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as if interrupted from the keyboard
    # Before torch is loaded: it asks once.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from bench.llm_run import Run

    run = Run(
        levels=[int(level) for level in arguments.streams.split(",")],
        threads=arguments.threads,
        everything=arguments.all,
        only=arguments.contenders.split(",") if arguments.contenders else None,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    try:
        run.measure(rounds=arguments.rounds, seconds=arguments.seconds)
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        for ending in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # who interrupts twice is told what there is all the same
            signal.signal(ending, signal.SIG_IGN)
        result = run.result()
        show(result)
        if arguments.json:
            print(json.dumps(result), flush=True)
        run.close()
    if run.interrupted:
        raise SystemExit(130)


def show(result: dict[str, Any]) -> None:
    """A table for people, on standard error."""
    table = Table(
        "callers",
        "contender",
        "tokens/s",
        "per CPU s",
        "TTFT p50 / p99 ms",
        "between tokens p50 / p99 ms",
        "MB",
    )
    for level, contenders in result["streams"].items():
        for name, figures in contenders.items():
            measured = "ttft_ms_p50" in figures
            table.add_row(
                level,
                name,
                f"{figures['tokens_per_s']:.1f}",
                f"{figures['tokens_per_cpu_s']:.1f}",
                f"{figures['ttft_ms_p50']} / {figures['ttft_ms_p99']}" if measured else "",
                f"{figures['inter_token_ms_p50']} / {figures['inter_token_ms_p99']}" if measured else "",
                str(figures["resident_mb"]),
            )
    console = Console(stderr=True)
    console.print(table)
    console.print({key: value for key, value in result.items() if key != "streams"})


if __name__ == "__main__":
    main()
