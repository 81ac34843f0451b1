"""How likely the model found a token, and what it found likeliest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_server.beam_search import log_softmax
from llm_server.sequence import TokenLogprobs


def token_logprobs(logits: NDArray[np.float32], token: int, likeliest: int) -> TokenLogprobs:
    """From one row of logits (V,), before any filter; ``likeliest`` ids beside it, best first, ties by id."""
    scores = log_softmax(logits)
    count = min(likeliest, scores.size)
    if count == 0:
        return TokenLogprobs(float(scores[token]), ())
    places = np.argpartition(-scores, count - 1)[:count]
    places = places[np.lexsort((places, -scores[places]))]
    return TokenLogprobs(float(scores[token]), tuple((int(place), float(scores[place])) for place in places))
