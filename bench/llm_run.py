"""One run of `bench.llm`: loads once, forks the contenders, lets them take turns, and keeps what each was heard to say.

Nothing here computes on more than one thread before the last fork: a process that has had a team of threads must not be
forked (the contenders, each in a process of its own, have theirs).
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from transformers.utils import logging

from bench import llm_contenders, llm_engine_figures, llm_llama_cpp
from bench.llm_process import Answer, ContenderProcess
from bench.llm_summary import ALONE, BARS, ONE_AT_A_TIME, OURS, compared, streams
from bench.llm_workload import Ask, asks, listen, prompt, resident_mb
from llm_server import base_checkpoint
from serving.weights import WeightStore

_COLD: Final = "polysight, remembering nothing"
_STEPS: Final = "polysight, steps alone"
_PICTURES: Final = 3


class Run:
    """Measures part by part; :meth:`result` is what is known so far."""

    def __init__(
        self,
        *,
        levels: Sequence[int],
        threads: int,
        everything: bool,
        only: Sequence[str] | None,
        say: Callable[[str], None],
    ) -> None:
        """``say`` takes a line for each part that is done. ``everything``: all contenders at all ``levels``."""
        self.interrupted = False
        self._levels, self._threads, self._everything, self._say = levels, threads, everything, say
        self._began = time.monotonic()
        self._rounds = 0
        self._absent: dict[str, str] = {}
        self._heard: dict[str, dict[int, list[Answer]]] = {name: {} for name in self._wanted(only)}
        self._processes: dict[str, ContenderProcess] = {}
        self._memory: dict[str, dict[str, int]] = {}
        self._second: dict[str, Any] = {}
        self._steps: dict[str, Any] = {}
        torch.set_num_threads(1)
        quiet: Any = logging.disable_progress_bar  # untyped
        quiet()
        self._model, self._tokenizer = llm_contenders.load()
        # What contenders import as they begin is loaded here, once for all.
        import peft  # noqa: F401

        self._say(f"loaded the base in {self._seconds:.1f} s")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _wanted(self, only: Sequence[str] | None) -> list[str]:
        every = [*llm_contenders.CONTENDERS, *(llm_contenders.MORE_CONTENDERS if self._everything else ())]
        reason = llm_llama_cpp.absent()
        if reason:
            self._absent[llm_llama_cpp.NAME] = reason
        else:
            every.append(llm_llama_cpp.NAME)
        if only is None:
            return every
        unknown = set(only) - set(every) - set(llm_contenders.MORE_CONTENDERS)
        if unknown:
            raise SystemExit(
                f"there is no contender {', '.join(sorted(unknown))}; there are {', '.join(every)}"
            )
        return [*only]

    def measure(self, *, rounds: int, seconds: float) -> None:
        """One round, then up to ``rounds`` while another one is likely to end within ``seconds`` of the start."""
        took = 0.0
        while self._rounds < rounds and (self._rounds == 0 or self._seconds + took <= seconds):
            took = self._round(self._rounds)
            self._rounds += 1

    def _round(self, number: int) -> float:
        """What there are bars for first; returns its seconds, without what only the first round measures."""
        took = 0.0
        bars = [level for level in self._levels if level in BARS]
        for level in (*bars, *(level for level in self._levels if level not in BARS)):
            for name in self._heard:
                if self._is_measured(name, level):
                    took += self._listen(name, level, number)
            if number == 0 and OURS in self._heard and level == (bars or self._levels)[-1]:
                self._figures()
        return took

    def _is_measured(self, name: str, level: int) -> bool:
        if name == OURS:
            return True
        if level == 1:
            # A batch of one is measured already, unless it is asked for alone.
            return ALONE.get(name) not in self._heard
        if name in ONE_AT_A_TIME:
            return 1 not in self._levels
        return self._everything or level in BARS

    def _listen(self, name: str, level: int, number: int) -> float:
        process = self._process(name)
        began = time.monotonic()
        answer = process.ask({"level": level, "round": number})
        took = time.monotonic() - began
        if answer is None:
            self._say(f"[{self._seconds:5.0f} s] {level} callers, {name}: {process.error}")
            return took
        self._heard[name].setdefault(level, []).append(answer)
        self._say(
            f"[{self._seconds:5.0f} s] {level} callers, {name}: {answer['tokens']} tokens in {answer['wall_s']:.1f} s,"
            f" {answer['tokens'] / answer['wall_s']:.1f} a second ({answer['cpu_s']:.1f} s of processor)"
        )
        return took

    def _process(self, name: str) -> ContenderProcess:
        """The contender's, started and warm."""
        if name not in self._processes:
            began = time.monotonic()
            process = self._processes[name] = ContenderProcess(partial(self._start, name))
            loaded = process.ask({"warm": True})
            if loaded is not None:
                self._memory[name] = loaded
                self._say(f"[{self._seconds:5.0f} s] {name} is warm after {time.monotonic() - began:.1f} s")
        return self._processes[name]

    def _figures(self) -> None:
        """A second question on a picture, and steps of mixed adapters."""
        began = time.monotonic()
        warm = self._process(OURS).ask({"both questions": _PICTURES})
        cold = self._process(_COLD).ask({"second questions": _PICTURES})
        self._end(_COLD)
        if warm is not None:
            self._second = llm_engine_figures.second_question(warm, cold)
        self._say(
            f"[{self._seconds:5.0f} s] second questions in {time.monotonic() - began:.1f} s: {self._second}"
        )
        began = time.monotonic()
        self._steps = self._process(_STEPS).ask({"steps": True}) or {}
        self._end(_STEPS)
        self._say(f"[{self._seconds:5.0f} s] steps in {time.monotonic() - began:.1f} s: {self._steps}")

    def _start(self, name: str) -> Callable[[Answer], Answer]:
        """In the process of contender ``name``: be ready, and answer."""
        torch.set_num_threads(self._threads)
        if name == _STEPS:
            return lambda wanted: {} if "warm" in wanted else llm_engine_figures.adapter_steps(self._model)
        most = max(self._levels)
        if name == llm_llama_cpp.NAME:
            gguf = WeightStore().fetch(base_checkpoint.ARTIFACT)
            answerer, _ = llm_llama_cpp.start(gguf, threads=self._threads)
        elif name == _COLD:
            cold = llm_contenders.served(
                self._model, self._tokenizer, threads=self._threads, slots=1, reuse=False
            )
            answerer = llm_contenders.engine_answerer(cold)
        else:
            answerer, _ = llm_contenders.start(
                name, self._model, self._tokenizer, threads=self._threads, most=most
            )
        tokenizer = self._tokenizer

        def answer(wanted: Answer) -> Answer:
            match wanted:
                case {"level": level, "round": number}:
                    # Enough that a batch is full for a while, and empties.
                    count = 3 if level == 1 else level + level // 4
                    questions = asks(tokenizer, count, f"round {number}, {level} callers")
                    return {**listen(answerer, questions, level), "peak_mb": _peak_mb()}
                case {"both questions": pictures}:
                    return llm_engine_figures.both_questions(tokenizer, answerer, pictures)
                case {"second questions": pictures}:
                    return llm_engine_figures.second_questions(tokenizer, answerer, pictures)
            answerer(Ask(prompt(tokenizer, "to be warm", "What?", 4), 4))
            return {"loaded": resident_mb()}

        return answer

    def result(self) -> dict[str, Any]:
        """All figures so far."""
        told = streams(self._heard, self._levels)
        processes = self._processes.items()
        for name, rounds in self._heard.items():
            peaks = [one["peak_mb"] for level in rounds.values() for one in level]
            if peaks:
                self._memory[name]["peak"] = max(peaks)
        return {
            "streams": told,
            **compared(told),
            "second_question_ttft_ratio": self._second.get("ratio"),
            "mixed_adapter_step_ratio": self._steps.get("ratio"),
            "second_question": self._second,
            "adapter_steps": self._steps,
            "memory_mb": {name: figures for name, figures in self._memory.items() if name in self._heard},
            "rounds": self._rounds,
            "seconds": round(self._seconds, 1),
            "threads": self._threads,
            "load_average": os.getloadavg(),
            "failed": {name: process.error for name, process in processes if process.error},
            "absent": self._absent,
            "interrupted": self.interrupted,
        }

    def _end(self, name: str) -> None:
        """Its error, if it has one, is kept."""
        self._processes[name].close()

    def close(self) -> None:
        """End all processes. Harmless when repeated."""
        for process in self._processes.values():
            process.close()


def _peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
