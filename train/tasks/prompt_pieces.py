"""The fixed parts of the prompts of a language model, as token ids."""

from __future__ import annotations

from typing import Any

import msgspec

from rbserve.models import prompts
from rbserve.models.drivers import architecture_of
from rbserve.models.lm import LanguageModel
from rbserve.models.prompts import Pieces

MAX_HISTORY = 20


def make_pieces(
    tokenizer: Any, language: LanguageModel, limit: int, yes: int, shared: bool, question_first: bool = False
) -> Pieces:
    """The fixed parts of all prompts of at most `limit` tokens; `yes`: the number of answers that mean yes.

    `shared`: an encoder reads the history once for all candidates. `question_first`: a decoder reads the question
    before the candidate.
    """
    reads = architecture_of(language.config).reads

    def ids(text: str) -> list[int]:
        tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    before, after = _special_tokens(tokenizer)
    mask = [tokenizer.mask_token_id] if reads == "encoder" and yes else []
    tail = [*mask, *after] if mask or reads == "encoder-decoder" else []
    answer = [*ids(prompts.ANSWER if yes else prompts.NEXT_ITEM), *tail]
    if language.meet and language.pairs:  # a candidate alone is a text, as the encoder was taught them
        mask, answer = [], after
    fixed = Pieces(
        schema=prompts.SCHEMA,
        start=[*before, *ids(prompts.INSTRUCTION + prompts.HISTORY if yes else prompts.HISTORY)],
        numbers=[ids(prompts.numbered(place)) for place in range(1, MAX_HISTORY + 1)],
        candidate=ids(prompts.CANDIDATE) if yes else [],
        answer=answer,
        max_tokens=limit,
        read_from_end=len(tail) - 1 if mask else 0,
        shared=reads == "decoder" or (shared and reads == "encoder"),
        causal=reads == "decoder",
        yes=yes,
        vocabulary=language.vocabulary,
        parted=language.pairs,
        meet=language.meet,
        opening=before if language.meet else [],
        pooled=language.meet > 0 and language.meet == language.config.num_hidden_layers,
    )
    return _with_question_first(tokenizer, fixed) if question_first else fixed


def _with_question_first(tokenizer: Any, fixed: Pieces) -> Pieces:
    """The pieces of a decoder's prompts with the question before the candidate, which one token ends."""
    question, closing = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (prompts.QUESTION_FIRST, prompts.CLOSING)
    )
    return msgspec.structs.replace(fixed, candidate=question, answer=closing[-1:])


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokeniser puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    place = next(at for at in range(len(framed)) if framed[at : at + len(plain)] == plain)
    return framed[:place], framed[place + len(plain) :]
