"""Genuine samples of the paper's data sets, where they are there: they are not part of this repository.

The folder is named by RBSERVE_RAW, else it is `shared/data` beside the repository. The sizes expected here are
those that the samples came with.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rbserve.core.errors import DataError
from rbserve.data.dataset import SPLITS, Dataset
from rbserve.data.integrity import inspect
from rbserve.train.datasets.sources import SOURCES, prepare, protocol_of

SAMPLES = Path(os.environ.get("RBSERVE_RAW") or Path(__file__).parents[2] / ".." / "shared" / "data")
CHOSEN = {"cds": {"negatives": 2}, "goodreads": {"negatives": 2}}
INTERACTIONS = {
    "hm": 31_662, "microlens": 359_708, "goodreads": 180_240, "cds": 25_682, "goodbooks": 298_176,
}  # fmt: skip
MIND_CANDIDATES, MIND_CLICKED, MIND_USERS, MIND_WITH_TEXT = 189_359, 7_542, 4_637, 5_527


def _folder(name: str) -> Path:
    folder = SAMPLES / name
    if not folder.is_dir():
        pytest.skip(f"no sample at {folder}: RBSERVE_RAW names the folder of the samples")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """The samples prepared so far; each is prepared when the first test asks for it."""
    return {}


@pytest.fixture
def sample(
    request: pytest.FixtureRequest, prepared: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Dataset:
    """The sample of the source that the test names."""
    name = request.param
    if name not in prepared:
        path = tmp_path_factory.mktemp("samples") / name
        protocol = protocol_of(SOURCES[name], CHOSEN.get(name))
        prepared[name] = prepare(name, path, _folder(name), protocol)
    return prepared[name]


def _raw_rows(dataset: Dataset) -> int:
    """Interactions kept, and raw rows left out before the protocol began."""
    reasons = dataset.manifest.dropped
    of_rows = {reason: count for reason, count in reasons.items()
               if not reason.startswith(("ctr:", "seqrec:", "duplicate item", "item text"))}  # fmt: skip
    of_rows.pop("item without text", None)
    return int(dataset.manifest.counts["source"]["interactions"]) + sum(of_rows.values())


@pytest.mark.parametrize("sample", [*INTERACTIONS, "mind"], indirect=True)
def test_a_sample_gives_both_tasks_and_no_leak(sample: Dataset) -> None:
    for split in SPLITS:
        rows = sample.ctr(split)  # type: ignore[arg-type]
        assert set(rows.labels.tolist()) == {0, 1}
        assert len(sample.seqrec(split))  # type: ignore[arg-type]
    report = inspect(sample)
    assert report.ok, report


@pytest.mark.parametrize("sample", list(INTERACTIONS), indirect=True)
def test_every_interaction_of_a_sample_is_kept_or_counted(sample: Dataset) -> None:
    assert _raw_rows(sample) == INTERACTIONS[sample.manifest.source]


@pytest.mark.parametrize("sample", ["mind"], indirect=True)
def test_every_candidate_and_every_given_item_of_mind_is_kept_or_counted(sample: Dataset) -> None:
    histories: dict[str, list[str]] = {}
    shown = clicked = 0
    for line in (_folder("mind") / "train" / "behaviors.tsv").read_text(encoding="utf-8").splitlines():
        _, user, _, history, candidates = line.split("\t")
        shown += len(candidates.split())
        clicked += candidates.count("-1")
        given = history.split()
        assert histories.setdefault(user, given) == given  # repeated in all of a user's impressions
    assert (shown, clicked, len(histories)) == (MIND_CANDIDATES, MIND_CLICKED, MIND_USERS)
    assert _raw_rows(sample) == shown + sum(map(len, histories.values()))
    assert sample.manifest.counts["source"]["items_with_text"] == MIND_WITH_TEXT


@pytest.mark.parametrize("sample", ["microlens"], indirect=True)
def test_microlens_has_the_sizes_of_the_paper(sample: Dataset) -> None:
    counts = sample.manifest.counts
    test = counts["ctr"]["test"]
    assert (test["rows"], test["users"], test["positives"]) == (20_000, 5_000, 10_000)
    finetune = [counts["ctr"][split] for split in ("train", "valid")]
    assert sum(part["rows"] for part in finetune) == 100_000
    assert sum(part["users"] for part in finetune) == 25_000
    assert counts["seqrec"]["test"]["rows"] == 5_000
    assert counts["seqrec"]["train"]["rows"] + counts["seqrec"]["valid"]["rows"] == 40_000
    assert counts["source"]["users"] == 50_000
    assert counts["source"]["items"] == 19_220


@pytest.mark.parametrize("sample", ["goodreads"], indirect=True)
def test_books_that_are_all_read_need_random_negatives(sample: Dataset, tmp_path: Path) -> None:
    assert sample.manifest.counts["source"]["users"] == 23_089
    with pytest.raises(DataError, match="ctr: 0 usable users") as error:
        prepare("goodreads", tmp_path / "set", _folder("goodreads"))
    assert "--negatives 2" in (error.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sample", ["cds"], indirect=True)
def test_titles_that_are_fragments_of_pages_are_left_out(sample: Dataset) -> None:
    assert sample.manifest.dropped["item text is HTML rubbish"] == 29
    assert not any("<" in text and ">" in text for text in sample.items.texts)
