"""Semantic identifiers of a data set's items, made when they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import UsageError, needs_extra
from rbserve.data.dataset import Dataset
from rbserve.home.paths import is_prepared
from rbserve.pipeline.data import check_dataset, ensure_dataset
from rbserve.progress import progress_bar, say

if TYPE_CHECKING:
    from rbserve.data.semantic_ids import SemanticIds


def semantic_ids(
    dataset: str,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    rebuild: bool = False,
    resume: bool = False,
) -> tuple[SemanticIds, Dataset]:
    """The semantic identifiers of a data set's items, made if they are missing, and the data set.

    `options` changes the config of the RQ-VAE, `settings` its training. UsageError if identifiers of other options have
    the same name.
    """
    from rbserve.core.settings import Settings
    from rbserve.data.semantic_ids import SEED, check_made_with, find_semantic_ids, sids_path
    from rbserve.models.rqvae_config import RqVaeConfig

    options, settings = options or {}, settings or {}
    config = RqVaeConfig(**options)
    Settings(**settings)  # refused now, before a data set is prepared
    check_dataset(dataset)
    if is_prepared(dataset) and not (rebuild or resume):  # what is there needs no torch
        data = ensure_dataset(dataset)
        there = find_semantic_ids(data, config, settings.get("seed", SEED))
        if there:
            check_made_with(there, {**options, **settings})
            return there, data
    with needs_extra("train", "making semantic identifiers"):
        from rbserve.train.encoders.backbone import require_findable
        from rbserve.train.semantic_ids.fit_codes import checkpoint_path, make_semantic_ids, settings_with
    chosen = settings_with(settings)
    require_findable(config.encoder)
    if resume and not is_prepared(dataset):
        raise UsageError(f"nothing to resume: data set {dataset} is not prepared", "leave out --resume")
    data = ensure_dataset(dataset)
    unfinished = checkpoint_path(sids_path(data, config, chosen.seed))
    if resume and not unfinished.is_file():
        raise UsageError(f"nothing to resume: no checkpoint at {unfinished}", "leave out --resume")
    with progress_bar(f"sids {data.name}") as progress:
        made = make_semantic_ids(data, config, chosen, resume, progress)
    say(f"made semantic identifiers of {len(made):,} items -> {made.path}")
    return made, data
