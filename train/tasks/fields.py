"""The fields that a model reads: chosen by its config, made for a data set's rows, written into its artefact."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.core.fields import COUNTED, Layout, chosen_fields
from rbserve.core.files import write_bytes
from rbserve.core.requests import slate_request
from rbserve.core.types import Items, Progress
from rbserve.data.dataset import CtrSplit, Dataset, Extras, Split, values_file
from rbserve.features.counted import FOLDER as COUNTED_FOLDER
from rbserve.features.counted import MANIFEST, SIMILARITIES, counted_fields
from rbserve.features.maker import FeatureMaker
from rbserve.features.opening import FOLDER
from rbserve.models.configs import CtrConfig, GbdtConfig
from rbserve.train.counting import Counted, counted_features, pair_features

DEFAULT_ENCODER = "minilm-l6"
Tensors = Mapping[str, NDArray[Any]]


class RowsWithExtras(Protocol):
    """R rows with what their requests have beside history and candidate."""

    @property
    def candidates(self) -> Items:
        """The candidate int32[R] of each row."""
        ...

    @property
    def extras(self) -> Extras:
        """What the request of each row has as well."""
        ...


@dataclass(frozen=True)
class FieldRows:
    """The fields of a layout for the rows of a data set."""

    dataset: Dataset
    layout: Layout
    counted: Counted | None

    def split(self, name: Split) -> CtrSplit:
        """The rows of a split with what their requests have, counted features among it."""
        rows = self.dataset.ctr(name)
        if self.counted is None:
            return rows
        return replace(rows, extras={**rows.extras, COUNTED: self.counted.features(name)})

    def extras_of(self, owners: NDArray[np.int64], candidates: Items, progress: Progress) -> Extras:
        """What requests of P candidates have beside them, each for the user and the context of a training row.

        Counted features are counted as those of the training row `owners[p]`: without its user, or before its time.
        """
        train = self.split("train")
        extras = {name: column[owners] for name, column in train.extras.items()}
        unlabelled = candidates != train.candidates[owners]
        if self.counted is not None and unlabelled.any():
            extras[COUNTED][unlabelled] = pair_features(
                self.dataset, self.counted, owners[unlabelled], candidates[unlabelled], progress=progress
            )
        return extras

    @cached_property
    def maker(self) -> FeatureMaker:
        """Makes the tensors of rows and requests."""
        items = {
            spec.name: self.dataset.item_field(spec) for spec in self.layout.fields if spec.scope == "item"
        }
        return FeatureMaker(self.layout, items, self.counted.tables if self.counted else None)

    def tensors(self, rows: RowsWithExtras) -> Tensors:
        """The tensors of the layout for R rows, each with R rows."""
        nothing = np.empty(0, np.int32)
        made = self.maker.tensors({**slate_request(nothing, rows.candidates), **rows.extras})
        return {
            name: np.broadcast_to(tensor, (len(rows.candidates), tensor.shape[1]))
            for name, tensor in made.items()
        }

    def save(self, folder: Path) -> None:
        """Copies the tables that the fields are looked up in into an artefact's directory."""
        for spec in self.layout.fields:
            if spec.scope == "item":
                self._copy(self.dataset.file(f"fields/{spec.entry}.npy"), folder / FOLDER)
            if spec.has_values:
                self._copy(self.dataset.file(f"fields/{values_file(spec)}"), folder / FOLDER)
        if self.counted is not None:
            manifest = self.counted.manifest
            files = {name: manifest.files[f"{name}.npy"] for name in manifest.tables}
            for name in files:
                self._copy(self.counted.path / f"{name}.npy", folder / COUNTED_FOLDER)
            own = msgspec.structs.replace(
                manifest, files={f"{name}.npy": file for name, file in files.items()}
            )
            write_bytes(folder / COUNTED_FOLDER / MANIFEST, msgspec.json.encode(own))

    def _copy(self, source: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / source.name)


def read_fields(config: CtrConfig | GbdtConfig, dataset: Dataset, progress: Progress) -> FieldRows | None:
    """The fields that a config names, counted where they are counted features; None where it names none.

    Nothing is counted of a log: its rows are about one item and have no users. Raises UsageError for a name that the
    data set does not have, and for a log where the config names none.
    """
    if not config.fields:
        if dataset.is_log:
            raise UsageError(
                f"{dataset.name} has fields alone: a model that reads none has nothing to learn from",
                "--set fields=own",
            )
        return None
    encoder = getattr(config, "encoder", DEFAULT_ENCODER)
    known = [] if dataset.is_log else counted_fields(dataset.by_time, any(dataset.items.texts))
    layout = chosen_fields(config.fields, dataset.manifest.fields, known)
    if not layout.counted:
        return FieldRows(dataset, layout, None)
    reads_texts = any(spec.name in SIMILARITIES for spec in layout.counted)
    counted = counted_features(dataset, encoder if reads_texts else None, progress=progress)
    return FieldRows(dataset, layout, counted)
