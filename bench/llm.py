"""How fast does the language model server answer one caller, and many at once?

    python -m bench.llm [--json] [--streams 1,4,8,16] [--threads 2] [--rounds 2]

Side by side, each in a process of its own, with the same values (the base in NF4, unpacked to bfloat16; both shipped
adapters) and the same questions: this project's engine; transformers' `generate`, one request after another; the same
with the adapters merged into the weights; `generate` for a static batch of whoever waits; transformers' continuous
batching, where it runs. They take turns, round by round, so that whatever else the machine does meets all of them.
Callers begin at random moments and ask one question after another, each about a picture of its own, with answers of 16
to 48 tokens.

- `streams`: for each number of callers and each contender tokens/s, time to first token, time between tokens (p50 and
  p99). What answers one at a time is measured with one caller only, and has those tokens/s however many wait.
  `tokens_per_cpu_s` is over processor time instead: what a machine that others use too tells more reliably.
- `ratio_1`, `ratio_8`: tokens/s of the engine over the best of the others that keep the adapters apart, as the engine
  does (bars: 1.0 and 1.3). `ratio_1_merged`, `ratio_8_merged`: over the best of all, the merged one included;
  `cpu_ratio_...`: of tokens per second of processor time.
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
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ONE_AT_A_TIME = ("generate", "generate-merged")
PICTURES = 4


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of callers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each contender gets")
    parser.add_argument("--each", type=int, default=2, help="questions of each caller in a round")
    parser.add_argument("--contenders", default="", help="only these, by name")
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.streams.split(",")]
    if arguments.contender:
        compete(arguments.contender, levels, arguments.threads)
        return
    from bench.llm_contenders import CONTENDERS

    wanted = arguments.contenders.split(",") if arguments.contenders else CONTENDERS
    contenders = [Contender(name, arguments) for name in wanted]
    told = in_turns(contenders, levels, arguments.rounds, arguments.each)
    result = summary(told, levels)
    show(result, levels)
    if arguments.json:
        print(json.dumps(result))


class Contender:
    """A contender's process, asked line by line."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        self.error = ""
        command = [sys.executable, "-m", "bench.llm", "--contender", name]
        command += ["--streams", arguments.streams, "--threads", str(arguments.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process, see close
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ask(self, what: dict[str, Any]) -> dict[str, Any] | None:
        """Its answer, or None once it has failed: then `error` says why."""
        if self.error:
            return None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed()
            return None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        self._failed()
        return None

    def _failed(self) -> None:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
        self.error = lines[-1][:300]

    def close(self) -> None:
        """End its process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed, and said so
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def in_turns(
    contenders: list[Contender], levels: list[int], rounds: int, each: int
) -> dict[str, dict[str, Any]]:
    """Each contender's figures, or why there are none."""
    from bench.llm_workload import together

    console = Console(stderr=True)
    heard: dict[str, dict[int, list[dict[str, Any]]]] = {one.name: {} for one in contenders}
    loaded = {one.name: one.ask({"warm": True}) for one in contenders}
    for number in range(rounds):
        for level in levels:
            for one in contenders:
                if level > 1 and one.name in ONE_AT_A_TIME:
                    continue
                answer = one.ask(
                    {"level": level, "round": number, "each": max(each, 2) if level == 1 else each}
                )
                console.print(f"[dim]round {number + 1}, {level} callers, {one.name}: {brief(answer)}[/]")
                if answer is not None:
                    heard[one.name].setdefault(level, []).append(answer)
    told: dict[str, dict[str, Any]] = {}
    for one in contenders:
        extra = one.ask({"extra": True})
        one.close()
        figures = {str(level): together(answers) for level, answers in heard[one.name].items()}
        # Who failed in a later round keeps what was measured before, and says what happened.
        failed = {"error": one.error} if one.error else {}
        told[one.name] = {"streams": figures, **(loaded[one.name] or {}), **(extra or {}), **failed}
    return told


def brief(answer: dict[str, Any] | None) -> str:
    """A round, in a few words."""
    if answer is None:
        return "failed"
    return f"{answer['tokens']} tokens in {answer['wall_s']:.1f} s ({answer['cpu_s']:.1f} s of processor)"


def compete(name: str, levels: list[int], threads: int) -> None:
    """Be one contender: answer what is asked on standard input until it ends."""
    import torch
    from transformers.utils import logging

    from bench import llm_contenders as contenders
    from bench.llm_workload import Ask, asks, listen

    quiet: Any = logging.disable_progress_bar  # untyped
    quiet()
    torch.set_num_threads(threads)
    answerer, close, tokenizer = contenders.start(name, threads=threads, most=max(levels))
    for line in sys.stdin:
        wanted = json.loads(line)
        if "warm" in wanted:
            answerer(Ask(asks(tokenizer, 1, each=1, seed=77)[0][0].prompt, 4))
            told: dict[str, Any] = {"loaded_mb": resident_mb()}
        elif "level" in wanted:
            callers = asks(tokenizer, wanted["level"], each=wanted["each"], seed=100 * wanted["round"])
            told = listen(answerer, callers)
        else:
            told = {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
            if name == "polysight":
                from bench.llm_engine_figures import engine_figures

                told |= engine_figures(tokenizer, answerer, threads=threads, pictures=PICTURES)
        print(json.dumps(told), flush=True)
    close()


def resident_mb() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def summary(told: dict[str, dict[str, Any]], levels: list[int]) -> dict[str, Any]:
    """The contenders' figures by number of callers, and the ratios."""
    streams: dict[str, dict[str, Any]] = {}
    for level in levels:
        streams[str(level)] = {
            name: figures["streams"]["1" if name in ONE_AT_A_TIME else str(level)]
            for name, figures in told.items()
            if ("1" if name in ONE_AT_A_TIME else str(level)) in figures["streams"]
        }
    ours = told.get("polysight", {})
    second, steps = ours.get("second_question", {}), ours.get("adapter_steps", {})
    result: dict[str, Any] = {"streams": streams}
    for level in (1, 8):
        for suffix, merged in (("", False), ("_merged", True)):
            figures = streams.get(str(level), {})
            result[f"ratio_{level}{suffix}"] = ratio(figures, "tokens_per_s", merged=merged)
            result[f"cpu_ratio_{level}{suffix}"] = ratio(figures, "tokens_per_cpu_s", merged=merged)
    return {
        **result,
        "second_question_ttft_ratio": second.get("ratio"),
        "mixed_adapter_step_ratio": steps.get("ratio"),
        "second_question": second,
        "adapter_steps": steps,
        "memory_mb": {
            name: {"loaded": figures.get("loaded_mb"), "peak": figures.get("peak_mb")}
            for name, figures in told.items()
        },
        "load_average": os.getloadavg(),
        "failed": {name: figures["error"] for name, figures in told.items() if "error" in figures},
    }


def ratio(level: dict[str, Any], figure: str, *, merged: bool) -> float | None:
    """The engine's ``figure`` over the best of the others'."""
    others = [
        float(figures[figure])
        for name, figures in level.items()
        if name != "polysight" and (merged or not name.endswith("-merged"))
    ]
    if "polysight" not in level or not others:
        return None
    return round(float(level["polysight"][figure]) / max(others), 2)


def show(result: dict[str, Any], levels: list[int]) -> None:
    """A table for people, on standard error."""
    table = Table(
        "callers", "contender", "tokens/s", "per CPU s", "TTFT p50 / p99 ms", "between tokens p50 / p99 ms"
    )
    for level in levels:
        for name, figures in result["streams"][str(level)].items():
            table.add_row(
                str(level),
                name,
                f"{figures['tokens_per_s']:.1f}",
                f"{figures['tokens_per_cpu_s']:.1f}",
                f"{figures['ttft_ms_p50']} / {figures['ttft_ms_p99']}",
                f"{figures['inter_token_ms_p50']} / {figures['inter_token_ms_p99']}",
            )
    console = Console(stderr=True)
    console.print(table)
    console.print({key: value for key, value in result.items() if key != "streams"})


if __name__ == "__main__":
    main()
