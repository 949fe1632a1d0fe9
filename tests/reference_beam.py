"""Conditional beam search as RecBench runs it, to hold `rbserve.models.beam` against, in results and in time.

Every beam's whole sequence is encoded anew at every level, and the codes that may follow are looked up in nested
dicts, one `.item()` at a time. What its public code gets wrong is not repeated: scores are sums of log-probabilities,
normalised over the valid codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Tokens int64[B, T] to logits [B, T, V] of the code that comes next, V being levels * codes a level."""


def reference_search(
    logits: Logits, prompt: torch.Tensor, paths: Any, width: int, tree: dict[int, Any] | None = None
) -> tuple[list[int], list[float]]:
    """The items of the best `width` beams for prompt int64[T], best first, and their log-probabilities.

    `paths` int[n, L] holds the codes of every item, `tree` their dict_trie where it is made already.
    Code c at level l is token l * K + c, in logits and prompts.
    """
    tree = dict_trie(paths) if tree is None else tree
    levels = len(paths[0])
    beams: list[tuple[list[int], Any, float]] = [([], tree, 0.0)]
    for level in range(levels):
        sequences = torch.stack([torch.cat([prompt, torch.tensor(taken).long()]) for taken, _, _ in beams])
        rows = logits(sequences)[:, -1]
        first_token = level * (rows.shape[-1] // levels)
        grown = []
        for row, (taken, node, score) in zip(rows, beams, strict=True):
            codes = sorted(node)
            gains = torch.log_softmax(row[[first_token + code for code in codes]], dim=0)
            for i, code in enumerate(codes):
                grown.append(([*taken, first_token + code], node[code], score + gains[i].item()))
        beams = sorted(grown, key=lambda beam: (-beam[2], beam[0]))[:width]
    return [item for _, item, _ in beams], [score for _, _, score in beams]


def dict_trie(paths: Any) -> dict[int, Any]:
    """Nested dicts from code to code, down to the item's number."""
    tree: dict[int, Any] = {}
    for item, path in enumerate(paths):
        *inner, last = (int(code) for code in path)
        node = tree
        for code in inner:
            node = node.setdefault(code, {})
        node[last] = item
    return tree
