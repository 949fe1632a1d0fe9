"""Warm start: a training on new data that begins with the weights of an artefact (`rbserve train --init`).

Items are matched by their raw id. An item that the artefact does not have begins with:

- groups B and C: the words of its text, or its vector, standardised as the artefact's vectors are, by the artefact's
  own tower where it has one; in a ranking with
  such vectors (`sasrec-2l-emb`, `hstu`) its own vector and bias are those of an untrained row;
- groups F, H and J, and rows that predict all codes at once: the nearest free semantic identifier, by the RQ-VAE that
  made the others;
- group E: its text, for which nothing is learnt;
- groups A, D, G and I: the mean of the vectors of the NEIGHBOURS items whose texts share the rarest words with its
  text, or the vector of an untrained row if no item does.

The optimiser starts anew.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from rbserve.core.errors import UsageError
from rbserve.core.fields import Layout
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.artifact import TOWER, WEIGHTS, WORDS, Artifact, Continued
from rbserve.data.dataset import Dataset, read_field_values, read_words, values_file
from rbserve.data.semantic_ids import RQVAE, find_semantic_ids, sids_path, write_semantic_ids
from rbserve.features.opening import FOLDER
from rbserve.models.configs import (
    CodedItems,
    EndpointConfig,
    GbdtConfig,
    ItemKnnConfig,
    ZeroShotConfig,
    config_from_dict,
    config_to_dict,
    kind_of,
)
from rbserve.models.items import ITEMS
from rbserve.models.words import tokenize
from rbserve.train.tasks.tower import OF_TEXT

DECODING = ("decoding", "width")
NEIGHBOURS = 5
COMMON = 0.1
"""A word that a larger share of the items has is ignored."""
ITEM_ROWS = (
    "item_embedding.weight", "transformer.token_embedding.weight", "new_embedding.weight",
    "language.new_embedding.weight", "head.weight",
)  # fmt: skip
OWN_ROWS = (f"{ITEMS}own.weight", "item_bias")
COUNTED = ("item_life", "new_item", "freshness", "neighbours.")
WORD_ROWS = "item_embedding.words.weight"
Rows = NDArray[np.int64]


def require_continuable(init: Artifact) -> None:
    """Raises UsageError, with the reason, for an artefact whose training cannot be continued."""
    training = init.manifest.training
    kind = config_from_dict(init.manifest.config_kind, init.manifest.config)
    reason = None
    if isinstance(kind, EndpointConfig | ZeroShotConfig):
        reason = "nothing of it is learnt"
    elif isinstance(kind, ItemKnnConfig):
        reason = "its neighbours are counted anew from all training sequences"
    elif isinstance(kind, GbdtConfig):
        reason = "its trees are grown anew from all training rows"
    elif training.distilled is not None:
        reason = f"it learns from {training.distilled.teacher}; rbserve distill teaches it anew"
    elif training.random:
        reason = "its weights are random"
    elif isinstance(kind, CodedItems) and f"sids/{RQVAE}" not in init.manifest.files:
        reason = "its semantic identifiers were made by an earlier version, which did not keep what made them"
    if reason:
        raise UsageError(f"{init.path} cannot be continued: {reason}", "train without --init")


def continued_spec(spec: ModelSpec, init: Artifact, options: Sequence[str]) -> ModelSpec:
    """The zoo row with the config of the artefact to continue, except how a ranking is decoded.

    Raises UsageError where the row's config differs from the artefact's in one of the `options` that the user named
    or, if the artefact is of another row, in any option.
    """
    manifest = init.manifest
    if kind_of(spec.config) != manifest.config_kind:
        raise UsageError(
            f"{spec.name} cannot continue {init.path}: that is {manifest.name}, another kind of model",
            f"--model {manifest.name}",
        )
    decoding = {name: getattr(spec.config, name) for name in DECODING if hasattr(spec.config, name)}
    config = dataclasses.replace(config_from_dict(manifest.config_kind, manifest.config), **decoding)
    for name in options if spec.name == manifest.name else config_to_dict(spec.config):
        before, wanted = getattr(config, name), getattr(spec.config, name)
        if before != wanted:
            raise UsageError(
                f"{name} is {before} in {init.path}, and {wanted} in the training that would continue it",
                f"--model {manifest.name}, with --set {name}={before} or without it; or train without --init",
            )
    return dataclasses.replace(spec, config=config)


@dataclass(frozen=True)
class WarmStart:
    """An artefact to start from, and the data set to train on."""

    init: Artifact
    dataset: Dataset

    @property
    def record(self) -> Continued:
        """The record of the start that the new artefact keeps in its manifest."""
        known = int((self._old_rows >= 0).sum())
        return Continued(
            self.init.name,
            self.init.model_digest,
            self.init.manifest.dataset.fingerprint,
            known_items=known,
            new_items=len(self.dataset.items) - known,
        )

    def require_fields(self, layout: Layout) -> None:
        """Raises UsageError unless the artefact reads these fields, each with the values of the new data set."""
        if layout != self.init.layout:
            names = (
                ", ".join(spec.name for spec in own.fields) or "none" for own in (self.init.layout, layout)
            )
            raise UsageError(
                "{} reads other fields: {}; here they are {} (or have other sizes)".format(
                    self.init.path, *names
                ),
                "train without --init",
            )
        for spec in layout.fields:
            file = f"{FOLDER}/{values_file(spec)}"
            if spec.has_values and read_field_values(self.init.file(file)) != self.dataset.field_values(spec):
                raise UsageError(
                    f"field {spec.name} has other values in {self.init.path} than in data set {self.dataset.name}",
                    "train without --init: its vectors are those of the old values",
                )

    def load(self, model: nn.Module) -> None:
        """Loads the artefact's weights into an untrained model of the data set's items."""
        old = load_file(self.init.file(WEIGHTS))
        if self.init.has_tower:
            old |= {f"{OF_TEXT}{name}": tensor for name, tensor in load_file(self.init.file(TOWER)).items()}
        fresh = model.state_dict()
        model.load_state_dict({name: self._tensor(name, fresh, old) for name in fresh})

    def _tensor(self, name: str, fresh: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        new = fresh[name]
        if name.startswith((f"{ITEMS}values", f"{ITEMS}offsets", *COUNTED)):
            return new
        if name not in old:
            raise UsageError(f"{self.init.path} has no weights {name}", "train without --init")
        before = old[name].to(new.dtype)
        if name == WORD_ROWS:
            return self._words(new, before)
        if name == f"{ITEMS}vectors":
            return self._vectors(fresh, old)
        if name in OWN_ROWS:
            return self._known(new, before)
        if self._has_item_rows(name, before):
            return self._items(new, before)
        if new.shape != before.shape:
            raise UsageError(
                f"{name} is {list(before.shape)} in {self.init.path} and {list(new.shape)} here",
                "train without --init",
            )
        return before

    def _has_item_rows(self, name: str, before: Tensor) -> bool:
        coded = isinstance(
            config_from_dict(self.init.manifest.config_kind, self.init.manifest.config), CodedItems
        )
        return name in ITEM_ROWS and not coded and len(before) == len(self.init.items)

    def _items(self, new: Tensor, before: Tensor) -> Tensor:
        """The artefact's rows of known items; of new ones the mean of items with similar texts, else the fresh row."""
        table = self._known(new, before)
        for row, neighbours in self._neighbours.items():
            table[row] = before[torch.tensor(neighbours)].mean(dim=0)
        return table

    def _known(self, new: Tensor, before: Tensor) -> Tensor:
        """The artefact's rows of known items, the fresh row of each new one."""
        table, rows = new.clone(), torch.from_numpy(self._old_rows)
        table[rows >= 0] = before[rows[rows >= 0]]
        return table

    def _words(self, new: Tensor, before: Tensor) -> Tensor:
        number = {word: place for place, word in enumerate(read_words(self.init.file(WORDS)))}
        table = new.clone()
        for place, word in enumerate(self.dataset.words):
            if word in number:
                table[place] = before[number[word]]
        return table

    def _vectors(self, fresh: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        """The data set's vectors, standardised as the artefact's are; known items keep vectors that were tuned."""
        raw = fresh[f"{ITEMS}vectors"] / fresh[f"{ITEMS}scale"] + fresh[f"{ITEMS}center"]
        vectors = (raw - old[f"{ITEMS}center"]) * old[f"{ITEMS}scale"]
        if self.init.manifest.config.get("vectors") == "tuned":
            rows = torch.from_numpy(self._old_rows)
            vectors[rows >= 0] = old[f"{ITEMS}vectors"][rows[rows >= 0]]
        return vectors

    @cached_property
    def _old_rows(self) -> Rows:
        """The row in the artefact of each item of the data set, int64[n]; -1 for new items."""
        rows = map(self.init.items.find, self.dataset.items.ids)
        return np.array([-1 if row is None else row for row in rows], np.int64)

    @cached_property
    def _neighbours(self) -> dict[int, list[int]]:
        items, rows = self.dataset.items, self._old_rows
        new = np.flatnonzero(rows < 0).tolist()
        similar = similar_texts(self.init.items.texts, [items.texts[row] for row in new])
        return {row: neighbours for row, neighbours in zip(new, similar, strict=True) if neighbours}


def similar_texts(known: Sequence[str], new: Sequence[str]) -> list[list[int]]:
    """For each new text, the rows of at most NEIGHBOURS known texts that share words with it; rare words weigh most."""
    holders: dict[str, list[int]] = defaultdict(list)
    if new:
        for row, text in enumerate(known):
            for word in set(tokenize(text)):
                holders[word].append(row)
    most = max(COMMON * len(known), NEIGHBOURS)
    neighbours = []
    for text in new:
        shared: Counter[int] = Counter()
        for word in sorted(set(tokenize(text))):
            rows = holders.get(word, [])
            if 0 < len(rows) <= most:
                weight = log(1 + len(known) / len(rows))
                for row in rows:
                    shared[row] += weight  # type: ignore[assignment]
        best = sorted(shared.items(), key=lambda pair: (-pair[1], pair[0]))[:NEIGHBOURS]
        neighbours.append([row for row, _ in best])
    return neighbours


def continue_identifiers(init: Artifact, dataset: Dataset, progress: Progress) -> None:
    """Writes semantic identifiers for a data set: the artefact's for known items, the nearest free ones for new items.

    Does nothing for models without semantic identifiers. Raises UsageError if the data set has identifiers of another
    RQ-VAE.
    """
    from rbserve.train.encoders.embed import embed_texts
    from rbserve.train.semantic_ids.fit_codes import name_new_items

    config = config_from_dict(init.manifest.config_kind, init.manifest.config)
    if not isinstance(config, CodedItems):
        return
    existing, sids = find_semantic_ids(dataset, config), init.sids
    path = sids_path(dataset, config)
    if existing is not None:
        if existing.manifest.files.get(RQVAE) != sids.manifest.files[RQVAE]:
            raise UsageError(
                f"the semantic identifiers in {path} are not those of {init.path}",
                "remove that folder: the items then get the artefact's identifiers",
            )
        return
    items = dataset.items
    known = [init.items.find(item) for item in items.ids]
    new = [row for row, old in enumerate(known) if old is None]
    codes = np.empty((len(items), sids.levels), np.int32)
    for row, old in enumerate(known):
        if old is not None:
            codes[row] = sids.codes[old]
    if new:
        vectors = embed_texts(
            [items.texts[row] for row in new], config.encoder, config.pooling, progress=progress
        )
        codes[new] = name_new_items(sids, vectors)
    rqvae = cast(Any, sids.rqvae)
    write_semantic_ids(
        path, dataset, codes, sids.manifest.config, sids.manifest.settings, sids.manifest.report,
        lambda file: file.write_bytes(rqvae.read_bytes()),
    )  # fmt: skip
