"""The sentencepiece tokenizer of CoLLaVO-7B and MoAI-7B, with the control tokens around it.

Text is split at `<s>`, `</s>`, `<unk>` and `<image>`; what lies between goes through the sentencepiece model piece by
piece (each stretch on its own, so a model with a dummy prefix puts one before each). `<image>` is added behind the
model's last piece. Turn markers such as `[UNUSED_TOKEN_146]` are pieces of the model itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece as spm

from llm_server.prompts.internlm import IMAGE

_UNSPACED = (" .", " ?", " !", " ,")


class InternTokenizer:
    """Text to ids and back.

    Args:
        model: path of `tokenizer.model`.

    Raises:
        OSError: the file cannot be read.
        RuntimeError: it is not a sentencepiece model.
    """

    def __init__(self, model: Path) -> None:
        self._pieces = spm.SentencePieceProcessor(model_proto=model.read_bytes())
        self.bos_id: int = self._pieces.bos_id()
        self.eos_id: int = self._pieces.eos_id()
        self.image_id: int = self._pieces.get_piece_size()
        """The id behind the last piece; the embedding has a row for it, the output head has not."""
        self._control = {
            self._pieces.id_to_piece(token): token
            for token in (self.bos_id, self.eos_id, self._pieces.unk_id())
            if token >= 0
        }
        names = (*self._control, IMAGE)
        self._split = re.compile(
            "(" + "|".join(re.escape(name) for name in sorted(names, key=len)[::-1]) + ")"
        )

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text; control tokens spelled out in it become control ids, so neutralise text from outside."""
        ids = [self.bos_id] if bos else []
        for part in self._split.split(text):
            if part == IMAGE:
                ids.append(self.image_id)
            elif part in self._control:
                ids.append(self._control[part])
            elif part:
                ids.extend(self._pieces.encode(part))
        return ids

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that text from outside must not turn into: control tokens, the placeholder, and turn markers."""
        markers = (
            token
            for token in range(self.image_id)
            if re.fullmatch(r"\[UNUSED_TOKEN_[0-9]+\]", self._pieces.id_to_piece(token))
        )
        # Unknown characters of a text become <unk> in models without byte pieces: that is no way out of the text.
        unknown = self._pieces.unk_id()
        return frozenset({*self._control.values(), *markers, self.image_id} - {unknown})

    def piece_bytes(self) -> tuple[bytes, ...]:
        """The UTF-8 bytes that each id stands for in an answer, `<image>` last; none for control tokens."""
        pieces = []
        for token in range(self.image_id):
            piece = self._pieces.id_to_piece(token)
            if token in self._control.values():
                pieces.append(b"")
            elif self._pieces.is_byte(token):
                pieces.append(bytes([int(piece[3:-1], 16)]))
            else:
                pieces.append(piece.replace("\u2581", " ").encode())
        return (*pieces, b"")

    @property
    def longest_piece(self) -> int:
        """The most characters of a text that become one id."""
        return max(len(self._pieces.id_to_piece(token)) for token in range(self.image_id))

    def decode(self, ids: Sequence[int], *, skip_control: bool = True) -> str:
        """Text of ids.

        With control tokens kept, a stretch of them has a space in front and `<image>` one on either side; spaces
        before `.?!,` and before `n't`, `'m`, `'s`, `'ve`, `'re` go, as the published tokenizer has it.
        """
        control = {token: name for name, token in self._control.items()}
        if skip_control:
            return self._stretch(
                [token for token in ids if token != self.image_id and token not in control], {}
            )
        texts: list[str] = []
        start = 0
        for place in (*(i for i, token in enumerate(ids) if token == self.image_id), len(ids)):
            if text := self._stretch(ids[start:place], control):
                texts.append(text)
            if place < len(ids):
                texts.append(IMAGE)
            start = place + 1
        return " ".join(texts)

    def _stretch(self, ids: Sequence[int], control: dict[int, str]) -> str:
        """Text of ids without `<image>`; those in `control` are spelled out."""
        out = ""
        pending: list[int] = []
        after_control = False
        for token in ids:
            if token in control:
                out += ("" if after_control else " ") + self._plain(pending) + control[token]
                pending = []
                after_control = True
            else:
                pending.append(token)
                after_control = False
        return unspaced(out + self._plain(pending))

    def _plain(self, ids: Sequence[int]) -> str:
        return str(self._pieces.decode(list(ids))) if ids else ""


def unspaced(text: str) -> str:
    """Text without the spaces that belong before no punctuation mark and no English contraction."""
    for mark in _UNSPACED:
        text = text.replace(mark, mark[1:])
    text = text.replace(" ' ", "'")
    for contraction in (" n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(contraction, contraction[1:])
    return text
