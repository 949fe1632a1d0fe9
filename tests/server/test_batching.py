"""Requests that wait are answered together where one call can, each with what it would get alone."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from rbserve.core.discipline import MAX_BATCH
from rbserve.core.types import Items, Scores
from rbserve.data.artifact import Artifact
from rbserve.server.api.options import Limits
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import ExpiredError, Service
from rbserve.server.scoring.work import Ranked, Ranking, Top

RankingService = Service[Top, Ranked]


class Watched:
    """A ranker that waits at a gate, notes how many users each of its calls has, and may fail for one of them.

    Of a history it reads `max_history` items.
    """

    def __init__(self, ranker: Any, bad: int, max_history: int) -> None:
        self._ranker, self._bad, self._max_history = ranker, bad, max_history
        self.entered, self.gate, self.calls = threading.Event(), threading.Event(), []

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        items, scores = self.top_k_batch(history[None], k)
        there = items[0] >= 0
        return items[0][there], scores[0][there]

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        self.calls.append(len(histories))
        self.entered.set()
        assert self.gate.wait(20)
        if (histories == self._bad).any():
            raise ValueError("no such user")
        read = histories[:, -self._max_history :]
        found: tuple[Items, Scores] = self._ranker.top_k_batch(read, k)
        return found


@pytest.fixture
def service(listwise: Artifact) -> Iterator[RankingService]:
    """The list-wise artefact's service, that answers on its thread."""
    opened = open_service(listwise, "onnx-fp32", threads=1)
    opened.warm_up(Limits(max_k=60))
    opened.inline_size = 0
    yield opened
    opened.close()


def watched(service: RankingService, bad: int = -1, max_history: int = 30) -> Watched:
    found = Watched(service.work.ranker, bad, max_history)  # type: ignore[attr-defined]
    service.work = Ranking(found, service.items, max_history)
    return found


def asked(*histories: list[int], k: int = 3, exclude_seen: bool = False) -> list[Top]:
    return [Top(np.array(history, np.int32), k, exclude_seen) for history in histories]


def together(
    service: RankingService, ranker: Watched, requests: list[Top], deadline: float | None = None
) -> list[Any]:
    """All answers, errors among them: the first request is computed while the others come."""

    async def everything() -> list[Any]:
        tasks = []
        for request in requests:
            tasks.append(service.answer_later(request, 10_000, deadline))
            if len(tasks) == 1:
                await asyncio.to_thread(ranker.entered.wait, 10)
        while service.waiting < len(requests):
            await asyncio.sleep(0.001)
        ranker.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(everything())


def check_same(service: RankingService, request: Top, found: Ranked) -> None:
    alone = service.work(request)
    np.testing.assert_array_equal(found.items, alone.items)
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6, rtol=1e-6)


def test_those_that_wait_are_one_call_and_get_what_each_would_get(service: RankingService) -> None:
    ranker = watched(service)
    requests = asked([1], [2], [3], [4, 5], [6])
    for request, found in zip(requests, together(service, ranker, requests), strict=True):
        check_same(service, request, found)
    assert ranker.calls[:3] == [1, 3, 1], "the first alone, then those of its length, then the other"
    assert service.waiting == 0


def test_ten_thousand_requests_of_all_kinds_are_answered_each_with_its_own(service: RankingService) -> None:
    ranker, rng = watched(service, max_history=4), random.Random(0)
    requests = [
        Top(np.array(rng.choices(range(50), k=rng.randrange(8)), np.int32), rng.randint(1, 60), rng.random() < 0.3)
        for _ in range(10_000)
    ]  # fmt: skip
    answers = together(service, ranker, requests)
    assert max(ranker.calls) == MAX_BATCH
    assert sum(ranker.calls) == len(requests)
    assert len(ranker.calls) < len(requests) / 8
    for request, found in zip(requests, answers, strict=True):
        check_same(service, request, found)


def test_one_that_fails_is_no_harm_to_the_others(service: RankingService) -> None:
    ranker = watched(service, bad=7)
    first, *others = together(service, ranker, asked([1], [2], [7], [3]))
    assert isinstance(others[1], ValueError)
    for request, found in zip(asked([1], [2], [3]), (first, others[0], others[2]), strict=True):
        check_same(service, request, found)


def test_those_that_came_too_late_are_not_among_them(service: RankingService) -> None:
    ranker = watched(service)

    async def everything() -> list[Any]:
        loop = asyncio.get_running_loop()
        first = service.answer_later(asked([1])[0], 100)
        await asyncio.to_thread(ranker.entered.wait, 10)
        soon = perf_counter() + 0.02
        late = service.answer_later(asked([2])[0], 100, soon)
        patient = service.answer_later(asked([3])[0], 100)
        loop.call_later(0.1, ranker.gate.set)
        return await asyncio.gather(first, late, patient, return_exceptions=True)

    found = asyncio.run(everything())
    assert isinstance(found[1], ExpiredError)
    assert ranker.calls == [1, 1]
    check_same(service, asked([3])[0], found[2])


def test_how_many_were_answered_together_is_told(service: RankingService) -> None:
    together(service, watched(service), asked([1], [2], [3]))
    value = service.telemetry.registry.get_sample_value
    assert value("rbserve_batch_requests_count", {"model": "rank"}) == 2
    assert value("rbserve_batch_requests_sum", {"model": "rank"}) == 3
    assert value("rbserve_recommendations_asked_total", {"model": "rank"}) == 9
