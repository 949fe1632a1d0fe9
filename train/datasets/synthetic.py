"""A planted data set: a model that learns nothing has AUC 0.5, one that learns everything reaches a known ceiling.

Items belong to topics and their titles are made of the topic's words. A user likes one topic. Events are
drawn so that half of a user's items are from that topic; an item of the topic is liked with probability
0.9, another with 0.1. Every item is equally likely to be drawn, so popularity says nothing. The history
shows the taste, hence the best possible AUC is that of the true probabilities: for balanced labels,
0.9 * 0.9 + 0.9 * 0.1 = 0.90.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from rbserve.data.dataset import ItemTable
from rbserve.train.datasets.source import DataSource
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally

LIKED_IN_TOPIC = 0.9
LIKED_ELSEWHERE = 0.1


@dataclass(frozen=True)
class Planted:
    """Sizes of a planted data set."""

    users: int = 2_000
    items: int = 400
    topics: int = 8
    events_per_user: int = 60
    words_per_topic: int = 12
    words_per_title: int = 4
    seed: int = 2024


def read(planted: Planted, dropped: Counter[str]) -> tuple[Interactions, ItemTable]:
    """Interactions and items with the planted structure; the same `planted` gives the same bytes."""
    rng = np.random.default_rng(planted.seed)
    topic_of = np.arange(planted.items) % planted.topics
    taste = rng.integers(planted.topics, size=planted.users)
    shape = (planted.users, planted.events_per_user)
    topic = np.where(rng.random(shape) < 0.5, taste[:, None], _another(rng, taste, planted.topics, shape))
    items = topic + planted.topics * rng.integers(planted.items // planted.topics, size=shape)
    chance = np.where(topic == taste[:, None], LIKED_IN_TOPIC, LIKED_ELSEWHERE)
    labels = rng.random(shape) < chance
    events = Interactions(
        np.repeat(np.arange(planted.users, dtype=np.int32), planted.events_per_user),
        items.ravel().astype(np.int32),
        labels.ravel().astype(np.int8),
        np.tile(np.arange(planted.events_per_user, dtype=np.int64), planted.users),
    )
    return _without_repeats(events, planted.items, dropped), _titles(rng, topic_of, planted)


def _another(rng: np.random.Generator, taste: np.ndarray, topics: int, shape: tuple[int, int]) -> np.ndarray:
    """For each event, a topic that is not the user's."""
    return (taste[:, None] + rng.integers(1, topics, size=shape)) % topics


def _without_repeats(events: Interactions, items: int, dropped: Counter[str]) -> Interactions:
    """The events without repeated items of a user: the first one counts, as in the real data sets."""
    pair = events.users.astype(np.int64) * items + events.items
    first = np.sort(np.unique(pair, return_index=True)[1])
    dropped["repeated item of a user"] += len(events) - len(first)
    return events.take(first)


def _titles(rng: np.random.Generator, topic_of: np.ndarray, planted: Planted) -> ItemTable:
    words = rng.integers(planted.words_per_topic, size=(planted.items, planted.words_per_title))
    texts = [
        " ".join(f"topic{topic}word{word}" for word in row)
        for topic, row in zip(topic_of, words, strict=True)
    ]
    return ItemTable([f"i{item}" for item in range(planted.items)], texts)


def _make(tally: Tally) -> tuple[Interactions, ItemTable]:
    return read(Planted(), tally.dropped)


SOURCE = DataSource(
    about="planted topics and tastes: chance is AUC 0.5, the ceiling 0.9 (made)",
    make=_make,
    times=False,
)
