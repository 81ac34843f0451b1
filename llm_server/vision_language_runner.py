"""Logits from CoLLaVO and MoAI: implements :class:`llm_server.runner.ModelRunner` over their own modules.

A prompt is read on its own, so that its logits do not depend on who else is served: CoLLaVO's in chunks that may begin
and end within the picture, MoAI's in one pass, as its mixers look at all of it. Answers are written in one batch, each
row over its own blocks. Features of pictures and auxiliary tokens are kept for the next question about the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_server.conditioning import Conditioning
from llm_server.decode_graphs import DecodeGraphs, Recorder
from llm_server.feature_cache import FeatureCache
from llm_server.kv_store import KvStore
from llm_server.models.aux_tokens import auxiliary_batch
from llm_server.models.collavo import Collavo
from llm_server.models.crayon import CrayonSwitches
from llm_server.models.gates import Triple
from llm_server.models.image_rows import ImageRows
from llm_server.models.moai import Moai
from llm_server.models.prompt_batch import PromptBatch
from llm_server.models.vision_language import VisionLanguageModel
from llm_server.paged_cache import PagedPass
from llm_server.prompts.colour_map import as_model_input, colour_map
from llm_server.prompts.pixels import normalise
from llm_server.published_conditioning import CollavoConditioning, MoaiConditioning, PictureConditioning
from llm_server.runner import DecodeRow
from llm_server.sequence import AdapterScales

_EMBEDDED_MOST = 512
_GATES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What of a prompt's picture stands in one pass: features (1, n, H) of its n image rows, crayon (n, H)."""

    features: Tensor | None
    rows: ImageRows | None


class VisionLanguageRunner:
    """Serves one model on one device. One caller at a time; each method runs in inference mode."""

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        blocks: int,
        block_size: int,
        context_length: int | None = None,
        kept_bytes: int = 0,
        recorder: Recorder | None = None,
        recorded_rows: int = 16,
    ) -> None:
        """``context_length`` may be less than the model's own, never more; ``kept_bytes`` of features are kept.

        With ``recorder``, decoding steps of up to ``recorded_rows`` rows are recorded.
        """
        self._model = model
        language = model.dimensions.language
        own = language.max_positions
        self._context = own if context_length is None else min(context_length, own)
        self._store = KvStore(
            layers=language.layers,
            blocks=blocks,
            block_size=block_size,
            heads=language.kv_heads,
            width=language.head_width,
            dtype=model.dtype,
            device=model.device,
        )
        self.features = FeatureCache(kept_bytes)
        self._graphs: DecodeGraphs | None = None
        if recorder is not None:
            self._graphs = DecodeGraphs(
                model.write, self._store, recorder, rows=recorded_rows, width=language.vocabulary
            )

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda"."""
        return self._model.device.type

    @property
    def vocabulary_size(self) -> int:
        """Length of a row of logits; the placeholder's id, which cannot be chosen, is the next."""
        return self._model.dimensions.language.vocabulary

    @property
    def context_length(self) -> int:
        """The most positions of one sequence."""
        return self._context

    @property
    def embedded_most(self) -> int:
        """The most tokens that :meth:`embed` takes."""
        return min(_EMBEDDED_MOST, self._context)

    @torch.inference_mode()
    def prefill(
        self,
        tokens: Sequence[int],
        *,
        start: int,
        blocks: Sequence[int],
        adapters: AdapterScales,
        last: bool,
        conditioning: Conditioning | None = None,
    ) -> NDArray[np.float32] | None:
        """See :class:`llm_server.runner.ModelRunner`. Raises ValueError for adapters: there are none here."""
        self._no(adapters)
        end = start + len(tokens)
        cache = PagedPass(self._store, [blocks], [(start, end)], self._model.device)
        if isinstance(conditioning, MoaiConditioning) and start == 0:
            states = self._whole(tokens, conditioning, cache)
        else:
            states = self._part(tokens, start, conditioning, cache)
        if not last:
            return None
        only: NDArray[np.float32] = self._model.last_logits(states[:, -1:])[0].cpu().numpy()
        return only

    @torch.inference_mode()
    def decode(self, rows: Sequence[DecodeRow]) -> NDArray[np.float32]:
        """See :class:`llm_server.runner.ModelRunner`."""
        for row in rows:
            self._no(row.adapters)
        recorded = None if self._graphs is None else self._graphs.step(rows)
        if recorded is not None:
            return recorded
        device = self._model.device
        cache = PagedPass(
            self._store,
            [row.blocks for row in rows],
            [(row.position, row.position + 1) for row in rows],
            device,
        )
        positions = torch.tensor([[row.position] for row in rows], device=device)
        visible = None
        if min(row.position for row in rows) + 1 < cache.length:
            visible = (torch.arange(cache.length, device=device)[None] <= positions)[:, None, None, :]
        logits: NDArray[np.float32] = (
            self._model.write(
                torch.tensor([[row.token] for row in rows], device=device),
                positions=positions,
                visible=visible,
                cache=cache,
            )
            .cpu()
            .numpy()
        )
        return logits

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int], adapters: AdapterScales) -> NDArray[np.float32]:
        """The mean of the final states over 1 to ``embedded_most`` tokens of text, no picture: (H,) float32."""
        self._no(adapters)
        if not 0 < len(tokens) <= self.embedded_most:
            raise ValueError(f"1 to {self.embedded_most} tokens can be embedded, not {len(tokens)}")
        ids = torch.tensor([list(tokens)], device=self._model.device)
        states: Tensor = self._model.model(
            self._model.model.tok_embeddings(ids),
            positions=torch.arange(ids.shape[1], device=ids.device)[None],
        )
        mean: NDArray[np.float32] = states[0].float().mean(dim=0).cpu().numpy()
        return mean

    @torch.inference_mode()
    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See :class:`llm_server.runner.ModelRunner`."""
        self._store.copy(pairs)

    def drop_adapter(self, key: str) -> None:
        """See :class:`llm_server.runner.ModelRunner`: there is never one to drop."""

    def _no(self, adapters: AdapterScales) -> None:
        if adapters:
            raise ValueError("this model takes no adapters")

    def _part(
        self, tokens: Sequence[int], start: int, conditioning: Conditioning | None, cache: PagedPass
    ) -> Tensor:
        """States (1, T, H) of a part of a prompt, or of what was written after it."""
        end, device = start + len(tokens), self._model.device
        image = torch.zeros(1, len(tokens), dtype=torch.bool)
        seen = _Seen(None, None)
        if isinstance(conditioning, PictureConditioning):
            first, after = conditioning.image_part(start, end)
            offset = conditioning.image_start - start
            image[0, offset + first : offset + after] = True
            if after > first:
                seen = self._seen(conditioning, first, after, offset)
        batch = PromptBatch(torch.tensor([list(tokens)]), torch.ones_like(image), image)
        states: Tensor = self._model.model(
            self._model.embed(batch, seen.features),
            positions=torch.arange(start, end, device=device)[None],
            cache=cache,
            image=seen.rows,
        )
        return states

    def _seen(self, conditioning: PictureConditioning, first: int, after: int, offset: int) -> _Seen:
        features = self._image(conditioning)[:, first:after]
        rows = torch.arange(offset + first, offset + after, device=self._model.device)
        crayon = None
        if isinstance(conditioning, CollavoConditioning) and (
            conditioning.semantic or conditioning.numbering
        ):
            crayon = self.features.get("crayon", conditioning.digest, lambda: self._crayon(conditioning))
        if crayon is None:
            return _Seen(features, ImageRows(rows))
        return _Seen(features, ImageRows(rows, rows, crayon[0, first:after]))

    def _whole(self, tokens: Sequence[int], conditioning: MoaiConditioning, cache: PagedPass) -> Tensor:
        """States (1, T, H) of a whole prompt of MoAI; its gates' weights go to the record."""
        model = cast(Moai, self._model)
        image = torch.zeros(1, len(tokens), dtype=torch.bool)
        image[0, conditioning.image_start : conditioning.image_end] = True
        auxiliary = self.features.get(
            "auxiliary", conditioning.auxiliary, lambda: self._auxiliary(conditioning)
        )
        reading = model.read(
            PromptBatch(torch.tensor([list(tokens)]), torch.ones_like(image), image),
            self._image(conditioning),
            auxiliary,
            overrides=[conditioning.overrides],
            gate_dtype=_GATES[conditioning.gate_dtype],
            cache=cache,
        )
        if conditioning.record is not None:
            means = reading.mixing.mean_gates()
            conditioning.record.means = {
                place: cast(Triple, tuple(map(float, mean[0]))) for place, mean in means.items()
            }
        return reading.states

    def _image(self, conditioning: PictureConditioning) -> Tensor:
        """Image tokens (1, N, H)."""
        return self.features.get(
            "image",
            conditioning.picture,
            lambda: self._model.image_features(self._normalised(conditioning.pixels)),
        )

    def _crayon(self, conditioning: CollavoConditioning) -> Tensor:
        features = cast(Collavo, self._model).crayon_features(
            torch.from_numpy(conditioning.classes.astype(np.int64))[None],
            torch.from_numpy(conditioning.numbers.astype(np.int64))[None],
            switches=CrayonSwitches(conditioning.semantic, conditioning.numbering),
            unknown_beyond=conditioning.unknown_beyond,
        )
        assert features is not None  # asked for only if a switch is on
        return features

    def _auxiliary(self, conditioning: MoaiConditioning) -> Tensor:
        """Auxiliary tokens (1, latents, H)."""
        model = cast(Moai, self._model)
        maps = None
        if conditioning.segments is not None:
            colours = as_model_input(colour_map(conditioning.segments))[0]
            maps = model.image_features(self._normalised(colours))
        return model.auxiliary(auxiliary_batch([conditioning.words], pad_id=0), maps)

    def _normalised(self, picture: NDArray[np.uint8] | NDArray[np.float16]) -> Tensor:
        """(3, side, side) -> (1, 3, side, side); a model in float16 normalises in float16, as published."""
        half = self._model.dtype == torch.float16
        return torch.from_numpy(np.asarray(normalise(picture[None], np.float16 if half else np.float32)))
