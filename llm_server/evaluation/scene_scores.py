"""Right and wrong answers about scenes, by kind of question, and what is reported of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_server.evaluation.declines import about_something_absent, declines
from llm_server.evaluation.instructions import followed, instruction
from llm_server.evaluation.scene_questions import KINDS
from llm_server.evaluation.scoring import correct
from llm_server.training.question import Question, Task


@dataclass(frozen=True)
class Wrong:
    """A wrong answer, to look at."""

    kind: str
    words: str
    question: str
    expected: str
    said: str


@dataclass
class Scores:
    """Right answers by kind, questions about what is absent, forms that were asked for; and the wrong answers."""

    right: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    by_task: dict[tuple[Task, str], Counter[bool]] = field(default_factory=dict)
    absent: Counter[bool] = field(default_factory=Counter)
    present: Counter[bool] = field(default_factory=Counter)
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)

    def add(self, question: Question, words: str, said: str) -> None:
        """Scores one answer."""
        kind = question.kind
        self.total[kind] += 1
        right = correct(kind, said, question.answer, question.short)
        self.by_task.setdefault((question.task, kind), Counter())[right] += 1
        if right:
            self.right[kind] += 1
        else:
            self.wrong.append(Wrong(kind, words, question.text, question.answer, said))
        if about_something_absent(kind, question.answer):
            self.absent[declines(said)] += 1
        elif not declines(question.answer):
            self.present[declines(said)] += 1
        form = instruction(question.text)
        if form is not None:
            counts = self.forms.setdefault(form, Counter())
            counts.update(asked=1, followed=followed(form, said, question.answer), right=right)

    def add_all(self, questions: Sequence[Question], words: str, answers: Sequence[str]) -> None:
        """Scores the answers about one scene, in the order of the questions."""
        for question, said in zip(questions, answers, strict=True):
            self.add(question, words, said)

    def share(self, kind: str) -> float:
        """Of right answers of a kind, four decimals; 0 if it was not asked."""
        return _share(self.right[kind], self.total[kind])

    def of_task(self, task: Task) -> float:
        """Mean of the shares of right answers of a task's kinds; kinds asked more often do not count for more."""
        shares = [counts[True] / counts.total() for (of, _), counts in self.by_task.items() if of == task]
        return round(sum(shares) / max(1, len(shares)), 4)

    def shares(self) -> dict[str, float]:
        """Share of right answers for each main kind."""
        return {kind: self.share(kind) for kind in KINDS}

    def report(self) -> dict[str, Any]:
        """Shares of the main kinds under their names, then of everything asked.

        ``all_kinds`` is the share of all answers, ``mean_of_kinds`` the mean of the kinds' shares, ``worst_kind`` the
        lowest of them. ``declines`` is how often it declined of the questions about what is absent, ``false_declines``
        of those about what is there. ``instructions``: for each form asked for, shares that have it and are right.
        """
        asked = {kind: self.share(kind) for kind in self.total}
        worst = min(asked, key=lambda kind: asked[kind], default=None)
        return {
            **self.shares(),
            "all_kinds": _share(self.right.total(), self.total.total()),
            "mean_of_kinds": round(sum(asked.values()) / max(1, len(asked)), 4),
            "worst_kind": None if worst is None else asked[worst],
            "worst_kind_name": worst,
            "kinds": {kind: {"exact": share, "asked": self.total[kind]} for kind, share in asked.items()},
            "declines": _share(self.absent[True], self.absent.total()),
            "false_declines": _share(self.present[True], self.present.total()),
            "asked_about_absent": self.absent.total(),
            "instructions": {
                form: {
                    "followed": _share(counts["followed"], counts["asked"]),
                    "exact": _share(counts["right"], counts["asked"]),
                    "asked": counts["asked"],
                }
                for form, counts in sorted(self.forms.items())
            },
        }


def _share(part: int, of: int) -> float:
    return round(part / max(1, of), 4)
