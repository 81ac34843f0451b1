"""Base, two adapters and crayon prompt as one module to train: which part learns, its tensors, its loss."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_server.models.crayon import CrayonSwitches
from llm_server.models.crayon_hooks import CrayonHooks, branch_outputs, crayon_rows, put_tokens
from llm_server.models.crayon_prompt import CrayonPrompt, CrayonShape
from llm_server.models.image_rows import ImageRows
from llm_server.training.dual_settings import CrayonQueries, CrayonSettings
from llm_server.training.image_packing import ImageBatch
from llm_server.training.packed_attention import additive
from llm_server.training.packing import IGNORED
from llm_server.training.question import Task

TENSORS: Final = "trained.safetensors"
_LORA: Final = "lora_"


def crayon_for(model: Any, settings: CrayonSettings) -> CrayonPrompt:
    """A fresh crayon prompt for ``model``, with or without adapters."""
    hidden = int(model.get_input_embeddings().weight.shape[1])
    shape = CrayonShape(
        rows=settings.rows,
        columns=settings.columns,
        width=settings.width,
        hidden=hidden,
        rank=settings.rank,
        alpha=settings.alpha,
        places=settings.places,
    )
    return CrayonPrompt(shape, branch_outputs(model, shape.targets))


class _ThisThread(threading.local):
    """What holds in one thread: the rows that its forward pass adds the crayon prompt at."""

    rows: ImageRows | None = None


class DualModel(nn.Module):
    """A peft model with the adapters ``object`` and ``vl``, both active, and a crayon prompt.

    Args:
        adapted: the peft model; it keeps a hook on each layer that the crayon prompt enters.
        crayon: made for it.
        queries: which of the crayon prompt's tables take part.
    """

    def __init__(self, adapted: Any, crayon: CrayonPrompt, queries: CrayonQueries = "both") -> None:
        super().__init__()
        self.adapted = adapted
        self.crayon = crayon
        self._switches = CrayonSwitches(semantic=queries != "off", numbering=queries == "both")
        self._here = _ThisThread()
        # Layers that a checkpointed backward computes again do so in a thread of the device's own.
        self._everywhere: ImageRows | None = None
        for linear, branch in CrayonHooks(adapted, crayon).layers:
            linear.register_forward_hook(self._adding(branch))

    def _adding(self, branch: nn.Module) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(module: nn.Module, arguments: Any, out: Tensor) -> Tensor | None:
            rows = self._here.rows or self._everywhere
            if rows is None or rows.crayon is None or rows.crayon_index is None:
                return None
            added = branch(rows.crayon.to(out.dtype))
            return out.flatten(0, -2).index_add(0, rows.crayon_index, added).view(out.shape)

        return hook

    def learns(self, task: Task | None, *, crayon: bool) -> None:
        """Lets the adapter of ``task`` (None: neither) and, if asked for, the crayon prompt learn, and nothing else."""
        for name, parameter in self.adapted.named_parameters():
            parameter.requires_grad_(task is not None and _LORA in name and f".{task}." in name)
        self.crayon.requires_grad_(crayon)

    def may_learn(self, *, adapters: bool, crayon: bool) -> None:
        """Marks what learns at some step of a stage: an optimiser is built from what is marked."""
        for name, parameter in self.adapted.named_parameters():
            parameter.requires_grad_(adapters and _LORA in name)
        self.crayon.requires_grad_(crayon)

    def rows(self, batch: ImageBatch) -> ImageRows | None:
        """Where the crayon prompt of a batch enters, and its features; None if no sequence has a picture."""
        if not len(batch.classes):
            return None
        features = self.crayon.features(batch.classes, batch.numbers, switches=self._switches)
        return crayon_rows(batch.image, features, batch.with_crayon)

    @contextmanager
    def within(self, rows: ImageRows | None, *, in_this_thread: bool = False) -> Iterator[None]:
        """The crayon prompt takes part in all that is computed within, forward and backward.

        ``in_this_thread``: by this thread alone, so that others can read other pictures at the same time.
        """
        place: Any = self._here if in_this_thread else self
        name = "rows" if in_this_thread else "_everywhere"
        setattr(place, name, rows)
        try:
            yield
        finally:
            setattr(place, name, None)

    def forward(self, batch: ImageBatch, rows: ImageRows | None) -> Tensor:
        """Weighted mean cross-entropy over the answer tokens of a batch; the head is computed at those only.

        To be called within :meth:`within` of the same rows.
        """
        causal = self.adapted.base_model.model
        text = batch.text
        embeddings = put_tokens(causal.get_input_embeddings()(text.input_ids), rows)
        hidden = causal.model(
            inputs_embeds=embeddings,
            position_ids=text.position_ids,
            attention_mask=additive(text.mask, embeddings.dtype),
            use_cache=False,
        ).last_hidden_state
        kept = text.targets != IGNORED
        logits = causal.lm_head(hidden[kept]).float()
        each = nn.functional.cross_entropy(logits, text.targets[kept], reduction="none")
        weights = text.weights[kept]
        loss: Tensor = (each * weights).sum() / weights.sum()
        return loss

    def trained_tensors(self) -> dict[str, Tensor]:
        """Adapters and crayon prompt, in the type they train in, by name."""
        found = {f"crayon.{name}": value.detach() for name, value in self.crayon.named_parameters()}
        for name, value in self.adapted.named_parameters():
            if _LORA in name:
                found[f"adapted.{name}"] = value.detach()
        return found

    def save(self, folder: Path) -> None:
        """Writes the trained tensors to ``folder``, exactly."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{TENSORS}.partial"
        save_file({k: v.cpu().contiguous() for k, v in self.trained_tensors().items()}, partial)
        partial.replace(folder / TENSORS)

    def restore(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: the tensors are those of another model.
        """
        stored, own = load_file(folder / TENSORS), self.trained_tensors()
        wrong = [name for name in {*stored, *own} if name not in stored or name not in own]
        wrong += [name for name in stored if name in own and stored[name].shape != own[name].shape]
        if wrong:
            raise ValueError(f"{folder} holds another model: {len(wrong)} tensors such as {sorted(wrong)[0]}")
        for name, value in stored.items():
            own[name].copy_(value)
