"""What lies beside trained adapters: the run card for machines, a model card for people, a line for the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from llm_server.training.question import TASKS

DESCRIPTIONS: Final[dict[str, str]] = {
    "object": "Objects: listing, counting, class to boxes, box to class, what vehicle or animal.",
    "vl": "Relations, existence, text in the picture, position, short descriptions.",
}


def write(card: dict[str, Any], folder: Path) -> None:
    """Writes ``recipe.json`` and ``README.md`` to ``folder`` and ``description.txt`` to each adapter's."""
    (folder / "recipe.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")
    for task in TASKS:
        (folder / task / "description.txt").write_text(DESCRIPTIONS[task] + "\n", encoding="utf-8")


def model_card(card: dict[str, Any]) -> str:
    """The model card as Markdown."""
    scores = card.get("scores")
    lines = [
        f"# Adapters `object` and `vl` for {card['base']}",
        "",
        "Two LoRA adapters that are served together, summed, on the NF4 base. Made by `polysight train`; every",
        "knob, the hash of the data, the loss curve and the versions are in `recipe.json`. Apache-2.0, like the base.",
        "",
        *(f"- `{task}`: {DESCRIPTIONS[task]}" for task in TASKS),
        "",
        f"Recipe `{card['recipe']}`, seed {card['seed']}: {card['steps']} steps, {card['answers']} answers about "
        f"{card['samples']} generated scenes, rank {card['rank']}, {card['seconds'] / 60:.0f} minutes on "
        f"{card['threads']} cores.",
        f"Data: sha256 `{card['data_sha256']}`.",
        *([card["note"]] if "note" in card else []),
        "",
    ]
    if scores:
        lines += [
            f"Exact answers on {scores['n']} held-out scenes (`polysight evaluate scenes --n {scores['n']} --seed "
            f"{scores['seed']}`):",
            "",
            "| | count (0 to 5) | existence | relation | text |",
            "|---|---|---|---|---|",
            _row("both adapters", scores),
            _row("base alone", scores["base"]),
            "",
        ]
    lines += [
        "What they do not do: they read sentences about a picture, not the picture. Colour, weather, age, mood and",
        'whatever else no expert reports is answered with "I cannot tell that". They were trained on English',
        "questions about single pictures; conversations over several turns, and scenes with more than about fifteen",
        "objects, were not trained.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, scores: dict[str, Any]) -> str:
    return (
        f"| {name} | "
        + " | ".join(f"{scores[k]:.3f}" for k in ("count", "existence", "relation", "text"))
        + " |"
    )
