"""What a profile judges and times: the test rows of a prepared data set, or the requests of a request set.

Both are a `TestRows`. They are drawn by the plan's seed, the same for every variant, scope and process, and written to
a file that the workers read (`inputs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError, UsageError
from rbserve.core.tasks import CTR
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset, SeqSplit, check_same_data, open_dataset
from rbserve.data.judging import Judging
from rbserve.data.request_set import RequestSet
from rbserve.data.similarity import data_sketch
from rbserve.home.paths import dataset_path
from rbserve.profilers.timing.requests import EXTRA, REQUESTS, draw, draw_rows, draw_table
from rbserve.runs.baselines import NO_BASELINES, Baselines, baselines
from rbserve.runs.measurement import DEPTH, Predictions
from rbserve.runs.plan import TABLE, Plan
from rbserve.runs.popularity import Answers

Rows = NDArray[np.int64]


class TestRows(Protocol):
    """The rows that every variant of an artefact is judged on, and what its timed requests are made of.

    `dataset` and `fingerprint` name the data in run files.
    """

    dataset: str
    fingerprint: str

    @property
    def users(self) -> NDArray[np.int32]:
        """The user int32[R] of each row."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the rows say what is right, so that accuracy can be measured."""
        ...

    @property
    def unanswered(self) -> Predictions:
        """The users and the labels (of pairs) or targets (of sequences), without any variant's answers."""
        ...

    def __len__(self) -> int: ...

    def write(self, path: Path, plan: Plan) -> None:
        """Writes the rows to judge and the requests of every slate to an .npz file."""
        ...

    def baselines(self, exclude_seen: bool, further: Mapping[str, Answers]) -> Baselines:
        """What simple models reach on these rows; `further` has answers of others to all test rows of the data set."""
        ...

    def sketch(self) -> dict[int, int]:
        """What tells copies of the data from other data (`data.similarity`)."""
        ...

    def judging(self) -> Judging | None:
        """How the data set of the rows divides rows and draws negatives; None without a data set."""
        ...


def open_test_rows(artifact: Artifact, data: Dataset | RequestSet, plan: Plan) -> TestRows:
    """The test rows of an artefact, of all users or of those that the plan draws.

    Raises UsageError where the artefact was made from other data, DataError where there are no rows.
    """
    check_data(artifact, data)
    if isinstance(data, RequestSet):
        return RequestRows(artifact, data, plan)
    return DatasetRows(artifact, data, plan)


def check_data(artifact: Artifact, data: Dataset | RequestSet) -> None:
    """Raises UsageError where an artefact was made from other data."""
    if isinstance(data, RequestSet):
        check_same_requests(artifact, data)
    else:
        check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, data)


def test_split(artifact: Artifact, dataset: Dataset) -> CtrSplit | SeqSplit:
    """All test rows of an artefact's task, those of a split by time with their times; DataError for none."""
    split = dataset.rows(artifact.manifest.task, "test")
    if not len(split):
        raise DataError(f"data set {dataset.name} has no test rows for {artifact.name}")
    return split


class DatasetRows:
    """The test rows of a prepared data set, for a model over rows of its item table."""

    labelled = True

    def __init__(self, artifact: Artifact, dataset: Dataset, plan: Plan) -> None:
        self._data = dataset
        self.dataset, self.fingerprint = dataset.name, dataset.fingerprint
        self._task = artifact.manifest.task
        split = test_split(artifact, dataset)
        drawn = drawn_users(split.users, plan)
        self._rows = None if drawn is None else np.flatnonzero(np.isin(split.users, drawn))
        self.split = split if self._rows is None else split.take(self._rows)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def users(self) -> NDArray[np.int32]:
        """The user int32[R] of each row."""
        return self.split.users

    @property
    def unanswered(self) -> Predictions:
        """The users and the labels of pairs, or the targets of sequences."""
        return predictions_of(self.split)

    def write(self, path: Path, plan: Plan) -> None:
        """Writes histories and items of the rows, and of at most 256 requests of every slate."""
        rng = np.random.default_rng(plan.seed)
        arrays = _ragged("test", self.split.histories)
        arrays["test_items"] = self.split.items
        if isinstance(self.split, CtrSplit):
            arrays |= {f"test{EXTRA}{name}": column for name, column in self.split.extras.items()}
        for slate in plan.slates:
            assert slate != TABLE, "check_plan refuses it"
            drawn = draw(rng, self.split, slate, len(self._data.items))
            arrays |= _ragged(f"slate{slate}", drawn.histories)
            if drawn.candidates is not None:
                arrays[f"slate{slate}_items"] = drawn.candidates
            arrays |= {f"slate{slate}{EXTRA}{name}": column for name, column in drawn.extras.items()}
        np.savez(path, allow_pickle=False, **arrays)

    def baselines(self, exclude_seen: bool, further: Mapping[str, Answers]) -> Baselines:
        """What simple models reach on these rows."""
        return baselines(self._data, self._task, self._rows, exclude_seen, further)

    def sketch(self) -> dict[int, int]:
        """The sketch of the data set."""
        return data_sketch(self._data)

    def judging(self) -> Judging:
        """The judging of the data set."""
        return self._data.judging


class RequestRows:
    """The requests of a request set, for an adopted model.

    Where they are the test rows of a prepared data set, users, labels, baselines and sketch are the data set's: a run
    of them shares a front with its models.
    """

    def __init__(self, artifact: Artifact, requests: RequestSet, plan: Plan) -> None:
        reference = artifact.manifest.dataset
        self.dataset, self.fingerprint = reference.name, reference.fingerprint
        self._requests = requests
        self._data = data_set_of(artifact, requests)
        if not len(requests):
            raise DataError(f"request set {requests.name} has no requests for {artifact.name}")
        drawn = drawn_users(self._users, plan)
        self._drawn = None if drawn is None else self._numbers_of(drawn)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def labelled(self) -> bool:
        """Whether the table has labels."""
        return self._requests.labels is not None

    @property
    def users(self) -> NDArray[np.int32]:
        """The user int32[R] of each row."""
        return self._users[self._rows]

    @property
    def unanswered(self) -> Predictions:
        """The users and the labels, of grades with the requests; none where the table has no labels."""
        labels = self._requests.labels
        if labels is None:
            return Predictions([], [], scores={})
        users, whole = self.users.tolist(), whole_numbers(labels[self._rows])
        if self._requests.manifest.labels == "binary":
            return Predictions(users, whole, scores={})
        return Predictions(users, whole, scores={}, requests=self._request_of_row[self._rows].tolist())

    def write(self, path: Path, plan: Plan) -> None:
        """Writes the directory of the request set, the numbers of the requests to judge, and of at most 256 requests of
        every slate with their rows.

        Of the slate `table` there are no more requests than timed runs: every process then times each of them.
        """
        rng = np.random.default_rng(plan.seed)
        arrays: dict[str, NDArray[Any]] = {"request_set": np.array(str(self._requests.path.absolute()))}
        if self._drawn is not None:
            arrays["test"] = self._drawn
        for slate in plan.slates:
            if slate == TABLE:
                most = min(REQUESTS, plan.runs)
                arrays["slatetable_requests"] = draw_table(rng, self._requests.offsets, most, self._drawn)
                continue
            drawn = draw_rows(rng, self._requests.offsets, slate, self._drawn)
            arrays |= {f"slate{slate}_requests": drawn.requests, f"slate{slate}_rows": drawn.rows}
        np.savez(path, allow_pickle=False, **arrays)

    def baselines(self, exclude_seen: bool, further: Mapping[str, Answers]) -> Baselines:
        """Those of the data set whose test rows these are; none of other requests, which have no training rows."""
        if self._data is None or not self.labelled:
            return NO_BASELINES
        rows = np.arange(len(self._users))[self._rows]
        return baselines(self._data, CTR.name, rows, exclude_seen, further)

    def sketch(self) -> dict[int, int]:
        """The sketch of the data set whose test rows these are, else an empty one."""
        return data_sketch(self._data) if self._data else {}

    def judging(self) -> Judging | None:
        """The judging of the data set whose test rows these are, if there is one."""
        return self._data.judging if self._data else None

    @cached_property
    def _users(self) -> NDArray[np.int32]:
        return self._data.ctr("test").users if self._data else self._requests.users

    @property
    def _request_of_row(self) -> NDArray[np.int64]:
        """The number int64[rows] of the request that each row of the table belongs to."""
        return np.repeat(np.arange(len(self._requests)), np.diff(self._requests.offsets))

    @cached_property
    def _rows(self) -> Rows | slice:
        """The rows of the requests to judge."""
        if self._drawn is None:
            return slice(None)
        offsets = self._requests.offsets
        return np.concatenate([np.arange(offsets[number], offsets[number + 1]) for number in self._drawn])

    def _numbers_of(self, users: NDArray[np.int32]) -> Rows:
        """The numbers of the requests whose first row is of one of the users."""
        begins = self._requests.offsets[:-1]
        has_rows = np.diff(self._requests.offsets) > 0
        first = self._users[np.minimum(begins, len(self._users) - 1)]
        return np.flatnonzero(has_rows & np.isin(first, users))


def drawn_users(users: NDArray[np.int32], plan: Plan) -> NDArray[np.int32] | None:
    """The users that the plan draws from those of the rows; None where it takes all."""
    known = np.unique(users)
    if not 0 < plan.test_users < len(known):
        return None
    drawn: NDArray[np.int32] = np.random.default_rng(plan.seed).choice(known, plan.test_users, replace=False)
    return drawn


def predictions_of(split: CtrSplit | SeqSplit) -> Predictions:
    """The users and the labels (of pairs) or targets (of sequences) of a split, without any variant's answers."""
    users = split.users.tolist()
    if isinstance(split, SeqSplit):
        return Predictions(users, labels=[], scores={}, targets=split.targets.tolist(), depth=DEPTH)
    return Predictions(users, split.labels.tolist(), scores={})


def whole_numbers(labels: NDArray[np.float32]) -> list[int]:
    """Labels as run files keep them; DataError for one that is no whole number."""
    whole = labels.astype(np.int64)
    if (whole != labels).any():
        raise DataError(
            f"label {labels[whole != labels][0]:g} is no whole number",
            "labels are 0 and 1, or grades 0, 1, 2, …",
        )
    listed: list[int] = whole.tolist()
    return listed


def check_same_requests(artifact: Artifact, requests: RequestSet) -> None:
    """Raises UsageError for a request set that the artefact was not adopted with."""
    assert artifact.manifest.adopted is not None
    known = artifact.manifest.adopted.requests.fingerprint
    if known != requests.fingerprint:
        raise UsageError(
            f"artefact {artifact.name} was adopted with requests {known[:12]}, "
            f"but request set {requests.name} is {requests.fingerprint[:12]}",
            "rbserve adopt makes it anew with these requests",
        )


def data_set_of(artifact: Artifact, requests: RequestSet) -> Dataset | None:
    """The prepared data set whose test rows the requests of an adopted artefact are, if they are of any.

    Raises DataError where it is not there, UsageError where it has other content than when the model was adopted.
    """
    reference = artifact.manifest.dataset
    if reference.fingerprint == requests.fingerprint:
        return None
    dataset = open_dataset(dataset_path(reference.name))
    check_same_data(artifact.name, reference.fingerprint, dataset)
    return dataset


def _ragged(name: str, histories: Ragged) -> dict[str, NDArray[Any]]:
    return {f"{name}_values": histories.values, f"{name}_offsets": histories.offsets}
