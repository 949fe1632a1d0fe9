"""Scores of items whose codes are predicted all at once, beyond the paper (RPG, Hou et al. 2025, arXiv 2506.05781).

A head per level gives the logits of the level's codes. The codes of an item are taken to be independent of one another
given the history: the score of an item is the sum over the levels of the log-probability of its code. The whole
catalogue is scored by look-ups and additions, without a product by item vectors (PQTopK, Petrov et al. 2024, arXiv
2408.09992).

Shapes: B users, L levels of K codes, n items. Code c of level l is token l * K + c, whose logit stands at that place;
`codes` int[L, n] has the tokens of all items, level by level.
"""

from __future__ import annotations

from torch import Tensor


def code_scores(logits: Tensor, codes: Tensor) -> Tensor:
    """Scores [B, n] of all items, logarithms of probabilities, by logits [B, L * K].

    A level is added at a time: a single look-up of all levels takes onnxruntime three times as long for one user and
    more for a batch, since its result has L times the size (LOG.md).
    """
    users, levels = logits.size(0), codes.size(0)
    by_token = logits.reshape(users, levels, -1).log_softmax(-1).flatten(1)
    first, *others = (by_token.gather(1, tokens.expand(users, -1)) for tokens in codes.long().unbind(0))
    return sum(others, start=first)
