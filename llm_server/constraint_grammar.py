"""JSON schemas and regular expressions as grammars over a model's tokens, through llguidance.

The library is imported when the first constraint is compiled or :meth:`ConstraintCompiler.prepare` is called. Its
parser and lexer work within fixed amounts of fuel, so that compiling takes a second at the very worst and a step some
milliseconds; what runs out of them is refused.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from llm_server.constraint import Bias, CompiledConstraint, Constraint, ConstraintRefused
from llm_server.constraint_schema import check_schema
from llm_server.constraint_vocabulary import Vocabulary
from llm_server.faults import ConstraintFault

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance._lib import JsonCompileOptions

Form = Literal["json_schema", "regex"]

#: Between two parts of a JSON value: nothing, a space, or a new line with its indentation. Without an end to it, a
#: small model can write blanks until it has no tokens left.
_BLANK: Final = r"( |\n {0,16})"
#: Of a compiler's message, in characters: it may quote all of an expression.
_LONGEST_MESSAGE: Final = 600


#: In bytes, as the contract says.
_LARGEST: Final[dict[Form, int]] = {"json_schema": 65536, "regex": 8192}

#: By byte of a token mask: the biases of its eight tokens, the lowest bit first. Adding is quicker than choosing.
_BIAS_OF_BYTE: Final = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0.0, -np.inf
).astype(np.float32)


class ConstraintCompiler:
    """Compiles for one vocabulary, and remembers the latest. Safe from any thread; blocks for as long as it takes."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        end_tokens: Collection[int],
        encode: Callable[[str], list[int]],
        *,
        remembered: int = 32,
    ) -> None:
        """``token_bytes`` are the bytes of each token, none for control tokens, as for :class:`Detokenizer`.

        ``end_tokens`` is not empty; ``encode`` tokenises plain text; ``remembered`` counts compiled constraints.
        """
        self._vocabulary = Vocabulary(token_bytes, min(end_tokens), encode)
        self._remembered = remembered
        self._compiled: OrderedDict[tuple[Form, str], _Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        # Two, so that one answer's slow grammar does not hold up the others'.
        self._masks = ThreadPoolExecutor(2, thread_name_prefix="constraint")

    def prepare(self) -> None:
        """Import the library and lay out the vocabulary, so that the first constraint need not wait for it."""
        self._laid_out()

    def compile(self, form: Form, text: str) -> CompiledConstraint:
        """Raises :class:`ConstraintRefused`."""
        if len(text) > _LARGEST[form] or len(text.encode("utf-8", "replace")) > _LARGEST[form]:
            raise ConstraintRefused(f"it has more than {_LARGEST[form]} bytes")
        with self._lock:
            known = self._compiled.get((form, text))
            if known is not None:
                self._compiled.move_to_end((form, text))
                return known
        grammar = _Grammar(self._match(_schema(text) if form == "json_schema" else _regex(text)), self._masks)
        with self._lock:
            self._compiled[form, text] = grammar
            while len(self._compiled) > self._remembered:
                self._compiled.popitem(last=False)
        return grammar

    def _match(self, grammar: str) -> _Matcher:
        from llguidance import LLMatcher

        tokenizer = self._laid_out()
        matcher = _Matcher(LLMatcher(tokenizer, grammar, log_level=0, limits=_limits()), tokenizer)
        try:
            matcher.check()
            begun = matcher.copy()
            if not np.isfinite(begun.bias()).any() and not begun.accepting:
                raise ConstraintRefused("no answer can satisfy it")
        except ConstraintFault as fault:
            raise ConstraintRefused(str(fault)) from fault
        return matcher

    def _laid_out(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(self._vocabulary),
                    n_vocab=len(self._vocabulary.tokens),
                    slices=LLTokenizer.json_slices(),
                )
            return self._tokenizer


class _Grammar:
    """A compiled constraint: a matcher that stays at the beginning."""

    def __init__(self, matcher: _Matcher, masks: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._masks = masks

    def start(self, end_tokens: Collection[int]) -> Constraint:
        """For one answer, from its beginning."""
        return Constraint(self._matcher.copy(), end_tokens, self._masks)


class _Matcher:
    """llguidance's matcher in the engine's words."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._bits = np.zeros((1, -(-tokenizer.vocab_size // 32)), np.int32)

    def copy(self) -> _Matcher:
        """At the same place."""
        return _Matcher(self._matcher.deep_copy(), self._tokenizer)

    def check(self) -> None:
        """Raises :class:`ConstraintFault` if it has failed."""
        if self._matcher.is_error():
            raise ConstraintFault(_message(self._matcher.get_error()))

    def bias(self) -> Bias:
        """What may come next. The library's own end token is none: whose end counts is the caller's say."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        self.check()
        # The library writes words in the machine's order; as bytes the first token comes first on every one we serve.
        bias: Bias = _BIAS_OF_BYTE[self._bits.view(np.uint8)[0]].reshape(-1)[: self._tokenizer.vocab_size]
        bias[self._tokenizer.eos_token] = -np.inf
        return bias

    def advance(self, token: int) -> None:
        """``token`` was chosen."""
        self._matcher.consume_token(token)
        self.check()

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()


def _schema(text: str) -> str:
    """A grammar for JSON values that satisfy the schema. What the library cannot decide is refused, never ignored."""
    from llguidance import LLMatcher

    schema = check_schema(text)
    if schema is False:
        raise ConstraintRefused("no answer can satisfy it")
    options: JsonCompileOptions = {
        "whitespace_pattern": _BLANK,
        "lenient": False,
        "coerce_one_of": False,
    }
    try:
        # As overrides: the schema may not change these for itself.
        return LLMatcher.grammar_from_json_schema("{}" if schema is True else text, None, options)
    except ValueError as error:
        raise ConstraintRefused(_message(str(error))) from error


def _regex(text: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(text)


def _limits() -> LLParserLimits:
    """Tighter than the library's where its own would let one request hold half a gigabyte."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=20_000, max_grammar_size=200_000, verbose_errors=False)


def _message(text: str) -> str:
    """The library's words, without its state and without a picture of where in an expression it was."""
    said = text.split("<state>", maxsplit=1)[0].split("<non-verbose/>", maxsplit=1)[0].strip()
    reason = re.search(r"^error: (.+)$", said, re.MULTILINE)
    if reason is not None:
        return reason[1]
    return said if len(said) <= _LONGEST_MESSAGE else said[:_LONGEST_MESSAGE] + "…"
