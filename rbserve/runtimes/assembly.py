"""Scorers and rankers put together from the parts that a runtime brings.

What is the same in every runtime is said here: which kind of ranker a model's config asks for, and what a language
model's scorer reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from rbserve.core.types import Items, Ranker
from rbserve.data.artifact import LAYERS, Artifact
from rbserve.models.configs import (
    ItemKnnConfig,
    ItemLanguageConfig,
    ParallelItems,
    SasRecConfig,
    SeqP5Config,
    SeqParallelConfig,
    SeqSidConfig,
    SidSasRecConfig,
)
from rbserve.models.prompts import Prompts
from rbserve.models.shapes import ENCODERS
from rbserve.runtimes.contents import artifact_config, artifact_prompts, artifact_states
from rbserve.runtimes.histories import HistoryCall, HistoryScorer
from rbserve.runtimes.language import (
    LanguageCall,
    LanguageScorer,
    LanguageStepper,
    PrefixCache,
    packed_questions,
)
from rbserve.runtimes.meeting import MeetingCall, MeetingScorer, States
from rbserve.runtimes.ranking import GeneratingRanker, ItemScores, ScoringRanker


class Parts(NamedTuple):
    """How to open the parts of a list-wise model in one runtime; an artefact has one of them.

    `item_scores` and `best_items` take the code tokens int32[L, n] of all items, of a model that scores items by them.
    """

    item_scores: Callable[[Items | None], ItemScores]
    stepper: Callable[[], Any]
    best_items: Callable[[Items | None], ItemScores]
    language: Callable[[], LanguageCall]


def ranker_of(artifact: Artifact, parts: Parts) -> Ranker:
    """The ranker of a list-wise artefact, of the part that its config asks for."""
    config, retired = artifact_config(artifact), artifact.items.retired
    if isinstance(config, SeqSidConfig):
        prompts = artifact_prompts(artifact)
        stepper = LanguageStepper(parts.language(), prompts)
        return GeneratingRanker(stepper, artifact.sids, config, prompts.questions)
    codes = artifact.sids.tokens_by_level if isinstance(config, ParallelItems) else None
    if isinstance(config, SeqP5Config | SeqParallelConfig):
        questions = packed_questions(artifact_prompts(artifact))
        return ScoringRanker(parts.best_items(codes), config.max_history, questions, retired)
    if isinstance(config, SidSasRecConfig):
        return GeneratingRanker(parts.stepper(), artifact.sids, config)
    assert isinstance(config, SasRecConfig | ItemKnnConfig)
    return ScoringRanker(parts.item_scores(codes), config.max_history, retired=retired)


def language_scorer(artifact: Artifact, call: LanguageCall, user_cache: int) -> LanguageScorer:
    """The scorer of a language model that keeps up to `user_cache` bytes of its last users' prompts."""
    states = artifact_states(artifact)
    return prompt_scorer(
        call, artifact_prompts(artifact), states, PrefixCache(user_cache) if user_cache else None
    )


def prompt_scorer(
    call: LanguageCall | MeetingCall, prompts: Prompts, states: States | None = None,
    cache: PrefixCache | None = None,
) -> LanguageScorer:  # fmt: skip
    """The scorer of a language model with such prompts; `states` are those of the items, of one that has a table."""
    if prompts.pieces.meet:
        return MeetingScorer(cast(MeetingCall, call), prompts, states, cache)
    return LanguageScorer(cast(LanguageCall, call), prompts, cache)


def history_scorer(artifact: Artifact, call: HistoryCall, user_cache: int) -> HistoryScorer:
    """The scorer of a model that reads items as tokens; it remembers up to `user_cache` bytes of users."""
    config = cast(ItemLanguageConfig, artifact_config(artifact))
    cache = PrefixCache(user_cache, stride=1) if user_cache else None
    causal = json.loads(artifact.file(LAYERS).read_text())["model_type"] not in ENCODERS
    return HistoryScorer(call, config.max_history, config.item_tokens, causal, cache)
