"""What a worker makes of a model that generates its items: a scripted one, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rbserve.core.types import Items, Scores
from rbserve.data.artifact import Artifact
from rbserve.profilers.measure import worker
from rbserve.profilers.measure.worker import Job, measure


class Generator:
    """Four paths for every user: item 7, no item, item 3, and nothing at all."""

    generates = True

    items = np.array([7, -1, 3, -1], np.int32)
    scores = np.array([-1, -2, -3, -np.inf], np.float32)

    def __init__(self) -> None:
        self.asked: list[int] = []

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        return self.top_k_staged(history, k, str)

    def top_k_staged(self, history: Items, k: int, observe: Callable[[str], None]) -> tuple[Items, Scores]:
        self.asked.append(k - len(history))
        observe("prefill")
        observe("step")
        found = self.items >= 0
        return self.items[found][:k], self.scores[found][:k]

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        return tuple(np.tile(part[:k], (len(histories), 1)) for part in (self.items, self.scores))  # type: ignore[return-value]


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Generator:
    made = Generator()
    monkeypatch.setattr(worker, "open_model", lambda *_: made)
    return made


def job(artifact: Artifact, folder: Path, **changes: object) -> Job:
    """Two test users, who liked 7 and 5 next; one of them has seen item 7."""
    rows = {"values": np.array([7, 1, 2], np.int32), "offsets": np.array([0, 1, 3])}
    arrays = {f"{name}_{key}": value for name in ("test", "slate2") for key, value in rows.items()}
    np.savez(folder / "inputs.npz", test_items=np.array([7, 5], np.int32), **arrays)
    facts = {
        "artifact": str(artifact.path), "variant": "torch-fp32", "inputs": str(folder / "inputs.npz"),
        "slates": [2], "threads": 1, "runs": 4, "seconds": 1.0, "scopes": ["forward", "end_to_end"],
        "exclude_seen": False, "process": 0, "cores": [], "accuracy": True,
    }  # fmt: skip
    return Job(**{**facts, **changes})  # type: ignore[arg-type]


def test_ranks_illegal_paths_and_stages_of_a_generating_model_are_told(
    generator: Generator, trained: Artifact, tmp_path: Path
) -> None:
    report = measure(job(trained, tmp_path))
    assert report.error is None
    assert report.ranks == [1, 0]
    assert report.illegal_share == pytest.approx(1 / 3)
    forward, end_to_end = report.samples
    assert list(forward.stages_ns) == ["prefill", "step", "rest"]
    assert list(end_to_end.stages_ns) == ["lookup", "prefill", "step", "names", "rest"]
    assert forward.history_lengths == [1, 2, 1, 2]
    assert len(forward.unobserved_ns) == len(forward.observed_ns) == 4
    assert sum(forward.stages_ns.values()) == sum(forward.observed_ns)
    assert 0 < (forward.loaded_rss_bytes or 0) <= forward.peak_rss_bytes
    assert len(forward.runs_ns) == len(end_to_end.runs_ns) == 4
    assert generator.asked


def test_every_call_asks_for_as_many_more_items_as_the_history_may_hide(
    generator: Generator, trained: Artifact, tmp_path: Path
) -> None:
    report = measure(job(trained, tmp_path, exclude_seen=True))
    assert set(generator.asked) == {2}  # k itself, when the history's length is taken away
    assert report.ranks == [0, 0]  # the first user's target is among what that user has seen
    assert report.illegal_share == pytest.approx(1 / 3)


def test_only_the_first_process_judges_the_test_rows(
    generator: Generator, trained: Artifact, tmp_path: Path
) -> None:
    report = measure(job(trained, tmp_path, accuracy=False))
    assert (report.ranks, report.illegal_share) == ([], None)
    assert generator.asked
