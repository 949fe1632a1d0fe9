"""Semantic identifiers for a data set's items: vectors of their texts, an RQ-VAE over them, distinct paths.

The pipeline of TIGER (Rajput et al. 2023) as RecBench uses it (section 4.3). `models/rqvae.py` has the equations,
`train/semantic_ids/assign_codes.py` the rule that gives items with the same nearest codes distinct paths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from rbserve.core.errors import DataError, Interrupted
from rbserve.core.settings import SID_SETTINGS, Settings
from rbserve.core.types import Progress, no_progress
from rbserve.data.dataset import Dataset
from rbserve.data.semantic_ids import (
    Coded,
    LevelReport,
    SemanticIds,
    SidReport,
    find_semantic_ids,
    open_semantic_ids,
    sids_path,
    write_semantic_ids,
)
from rbserve.models.configs import config_to_dict
from rbserve.models.rqvae import RqVae
from rbserve.models.rqvae_config import RqVaeConfig
from rbserve.train.fitting.loop import Checkpoint, Rows, State, fit, require_finite
from rbserve.train.fitting.tensors import save_tensors
from rbserve.train.semantic_ids.assign_codes import (
    Paths,
    check_room,
    distinct_paths,
    free_paths,
    nearest_paths,
    prefixes,
    shared_paths,
)

Vectors = NDArray[np.float32]
BATCH = 8_192
VALIDATION_ROWS = 4_096
ROWS_A_CLUSTER = 64


def ensure_semantic_ids(dataset: Dataset, config: Coded, progress: Progress = no_progress) -> SemanticIds:
    """The identifiers that a model with `config` reads; makes them with the default settings if there are none."""
    wanted = RqVaeConfig(
        encoder=config.encoder,
        pooling=config.pooling,
        levels=config.levels,
        codes=config.codes,
    )
    return find_semantic_ids(dataset, wanted) or make_semantic_ids(dataset, wanted, progress=progress)


def make_semantic_ids(
    dataset: Dataset,
    config: RqVaeConfig,
    settings: Settings = SID_SETTINGS,
    resume: bool = False,
    progress: Progress = no_progress,
) -> SemanticIds:
    """Makes the identifiers anew and writes them beside the data set."""
    from rbserve.train.encoders.embed import item_vectors

    path = sids_path(dataset, config, settings.seed)
    check_room(len(dataset.items), config.levels, config.codes)  # before hours of work
    vectors = item_vectors(dataset, config.encoder, config.pooling, progress)
    checkpoint = checkpoint_path(path)
    try:
        model, state = train_rqvae(vectors, config, settings, checkpoint, resume, progress)
    except Interrupted as stop:
        raise Interrupted(stop.message, "rbserve sids --resume, with the same options, continues") from None
    processes = PartialState()
    if processes.is_main_process:
        codes, report = name_items(model, vectors, state)
        write_semantic_ids(
            path, dataset, codes, config_to_dict(config), settings.recipe, report,
            lambda file: save_tensors(file, model.state_dict()),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return open_semantic_ids(path)


def settings_with(changes: Mapping[str, Any]) -> Settings:
    """The default settings with changes; all `epochs` are run, and a batch is one micro batch."""
    changed = dataclasses.replace(SID_SETTINGS, **changes)
    return dataclasses.replace(changed, micro_batch=changed.batch, patience=changed.epochs)


def checkpoint_path(sids: Path) -> Path:
    """The file that unfinished work on the identifiers can be resumed from."""
    return sids.with_name(f"{sids.name}.checkpoint.safetensors")


def train_rqvae(
    vectors: Vectors,
    config: RqVaeConfig,
    settings: Settings,
    checkpoint: Path,
    resume: bool = False,
    progress: Progress = no_progress,
) -> tuple[RqVae, State]:
    """Trains an RQ-VAE on vectors float32[n, D], which may be a memory map; returns it and the state of the training.

    Raises DataError for vectors that are not finite. Equal vectors, config and settings give equal weights, on the same
    machine and number of threads.
    """
    torch.manual_seed(settings.seed)
    model = RqVae(config, vectors.shape[1])
    model.centre, model.scale = _moments(vectors)
    if not resume:
        model.start_from(_sample(vectors, ROWS_A_CLUSTER * config.codes, settings.seed))
    run = {**config_to_dict(config), **settings.recipe, "items": len(vectors)}
    task = RqVaeTask(vectors, config, settings.seed)
    state = fit(model, task, settings, Checkpoint(checkpoint, run), resume, progress)
    return model.cpu(), state


def name_items(model: RqVae, vectors: Vectors, state: State) -> tuple[Paths, SidReport]:
    """Distinct codes int32[n, L] for vectors float32[n, D] by a trained RQ-VAE, and a report of their quality.

    Raises DataError for more items than paths. Memory holds n latents and a batch of distances.
    """
    latents = _latents(model, vectors)
    codebooks = model.codebooks.detach().numpy()
    nearest, codes = nearest_paths(latents, codebooks), distinct_paths(latents, codebooks)
    return codes, _report(model, vectors, nearest, codes, state)


def name_new_items(sids: SemanticIds, vectors: Vectors) -> Paths:
    """Codes int32[K, L] for vectors float32[K, D] of new items, by the RQ-VAE of the existing identifiers.

    Each item takes the nearest free path, in their order (`assign_codes.free_paths`). Raises DataError if none is free.
    """
    assert sids.rqvae is not None
    config = RqVaeConfig(**{name: _tuple(value) for name, value in sids.manifest.config.items()})
    model = RqVae(config, vectors.shape[1])
    model.load_state_dict(load_file(sids.rqvae))
    model.eval()
    return free_paths(_latents(model, vectors), model.codebooks.detach().numpy(), sids.codes)


def _tuple(value: Any) -> Any:
    """A config's value, with the tuple that JSON turned into a list."""
    return tuple(value) if isinstance(value, list) else value


class RqVaeTask:
    """The training task of an RQ-VAE; its rows are the vectors of all items that get codes, so none is held out."""

    metric = "explained variance"

    def __init__(self, vectors: Vectors, config: RqVaeConfig, seed: int) -> None:
        self._vectors = vectors
        self._spare = (config.levels, config.codes)
        self._valid = _sample(vectors, VALIDATION_ROWS, seed)
        self.rows = len(vectors)

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """RQ-VAE's loss summed over the given rows; random rows replace dead codes."""
        device = next(model.parameters()).device
        spare = torch.randint(self.rows, self._spare).numpy()
        losses: Tensor = model(
            torch.from_numpy(self._vectors[rows]).to(device),
            torch.from_numpy(self._vectors[spare]).to(device),
        )
        return losses.sum()

    def validate(self, model: nn.Module) -> float:
        """The share of a sample's variance that its codes explain; RbserveError if training has diverged."""
        assert isinstance(model, RqVae)
        vectors = self._valid.to(model.centre.device)
        decoded = model.decoder(model.quantize(model.encode(vectors)).entries.sum(dim=1))
        explained = 1 - float((decoded - model.normalize(vectors)).square().mean())
        require_finite(bool(np.isfinite(explained)), "the error is")
        return explained


def _moments(vectors: Vectors) -> tuple[Tensor, Tensor]:
    """The mean [D], and the factor that makes the average variance 1; DataError for vectors that are not finite."""
    total, squares = np.zeros(vectors.shape[1]), 0.0
    for block in _blocks(vectors):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(vectors)
    for block in _blocks(vectors):
        squares += float(((block - mean) ** 2).sum())
    if not np.isfinite(squares):
        raise DataError("the items' vectors hold numbers that are not finite", "try another --encoder")
    alike = squares <= 1e-12 * len(vectors) * float((mean**2).sum())  # they differ by rounding only
    scale = 1.0 if alike else (vectors.size / squares) ** 0.5
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def _sample(vectors: Vectors, most: int, seed: int) -> Tensor:
    """At most `most` rows, drawn without repetition, in their order."""
    rows = np.random.default_rng((seed, most)).permutation(len(vectors))[:most]
    return torch.from_numpy(np.ascontiguousarray(vectors[np.sort(rows)]))


def _blocks(vectors: Vectors) -> Iterator[Vectors]:
    for begin in range(0, len(vectors), BATCH):
        yield vectors[begin : begin + BATCH]


def _latents(model: RqVae, vectors: Vectors) -> Vectors:
    """The latents float32[n, d] of vectors float32[n, D]."""
    with torch.inference_mode():
        return np.concatenate([model.encode(torch.from_numpy(block)).numpy() for block in _blocks(vectors)])


def _errors(model: RqVae, vectors: Tensor, codes: Tensor) -> Tensor:
    """The variance [L] that the codes [B, L] up to each level do not explain, summed over vectors [B, D]."""
    x = model.normalize(vectors)
    levels = torch.arange(codes.shape[1], device=codes.device)
    partial_sums = model.codebooks[levels, codes].cumsum(dim=1)
    decoded: Tensor = model.decoder(partial_sums)
    return (decoded - x[:, None]).square().mean(dim=2).sum(dim=0)


def _report(model: RqVae, vectors: Vectors, nearest: Paths, codes: Paths, state: State) -> SidReport:
    items, levels = codes.shape
    left = np.zeros(levels)
    with torch.inference_mode():
        for begin in range(0, items, BATCH):
            rows = slice(begin, begin + BATCH)
            piece = torch.from_numpy(codes[rows].astype(np.int64))
            left += _errors(model, torch.from_numpy(vectors[rows]), piece).numpy()
    numbers = prefixes(codes)
    moved = nearest != codes
    return SidReport(
        levels=[
            LevelReport(
                *_use(nearest[:, level]),
                distinct_prefixes=(int(numbers[:, level].max()) + 1) / items,
                unexplained=float(left[level]) / items,
            )
            for level in range(levels)
        ],
        collision_rate=shared_paths(nearest) / items,
        moved=int(moved.any(axis=1).sum()),
        moved_earlier=int(moved[:, :-1].any(axis=1).sum()),
        epochs=state.epoch,
        best_epoch=state.best_epoch + 1,
    )


def _use(codes: NDArray[np.int32]) -> tuple[int, float]:
    """The number of codes that are used, and their perplexity: the number of equally frequent codes as varied."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / len(codes)
    return len(counts), float(np.exp(-(shares * np.log(shares)).sum()))
