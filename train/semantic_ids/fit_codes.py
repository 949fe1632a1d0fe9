"""Semantic identifiers for a data set's items: vectors of their texts, an RQ-VAE over them, distinct paths.

The pipeline of TIGER (Rajput et al. 2023), as RecBench takes it over (section 4.3). `models/rqvae.py` has the
equations, `train/semantic_ids/assign_codes.py` the rule by which items of one path are told apart.
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
from rbserve.core.types import Progress, no_progress
from rbserve.data.dataset import Dataset
from rbserve.data.semantic_ids import (
    SEED,
    Coded,
    LevelReport,
    SemanticIds,
    SidReport,
    find_semantic_ids,
    open_semantic_ids,
    sids_path,
    write_semantic_ids,
)
from rbserve.models.configs import RqVaeConfig, config_to_dict
from rbserve.models.rqvae import RqVae
from rbserve.train.loop import Checkpoint, Rows, Settings, State, fit, require_finite
from rbserve.train.semantic_ids.assign_codes import (
    Paths,
    check_room,
    distinct_paths,
    free_paths,
    nearest_paths,
    prefixes,
    shared_paths,
)
from rbserve.train.tensors import save_tensors

Vectors = NDArray[np.float32]
SETTINGS = Settings(batch=1_024, micro_batch=1_024, lr=1e-3, epochs=100, patience=100, seed=SEED)
BATCH = 8_192
VALIDATION_ROWS = 4_096
ROWS_A_CLUSTER = 64


def ensure_semantic_ids(dataset: Dataset, config: Coded, progress: Progress = no_progress) -> SemanticIds:
    """The identifiers that a model with `config` reads, made with the default settings unless they are there."""
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
    settings: Settings = SETTINGS,
    resume: bool = False,
    progress: Progress = no_progress,
) -> SemanticIds:
    """Makes the identifiers anew and keeps them with the data set."""
    from rbserve.train.encoders.embed import item_vectors

    path = sids_path(dataset, config, settings.seed)
    check_room(len(dataset.items), config.levels, config.codes)  # before the work of hours, not after it
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
            path, dataset, codes, config_to_dict(config), dataclasses.asdict(settings), report,
            lambda file: save_tensors(file, model.state_dict()),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return open_semantic_ids(path)


def settings_with(changes: Mapping[str, Any]) -> Settings:
    """The default settings with some of them changed: all `epochs` are run, and a batch is one piece."""
    changed = dataclasses.replace(SETTINGS, **changes)
    return dataclasses.replace(changed, micro_batch=changed.batch, patience=changed.epochs)


def checkpoint_path(sids: Path) -> Path:
    """Where unfinished work on the identifiers keeps its state."""
    return sids.with_name(f"{sids.name}.checkpoint.safetensors")


def train_rqvae(
    vectors: Vectors,
    config: RqVaeConfig,
    settings: Settings,
    checkpoint: Path,
    resume: bool = False,
    progress: Progress = no_progress,
) -> tuple[RqVae, State]:
    """The RQ-VAE of vectors float32[n, D], which may be a memory map, and how its training went.

    DataError for vectors that are not finite. The same vectors, config and settings give the same weights, on the same
    machine and number of threads.
    """
    torch.manual_seed(settings.seed)
    model = RqVae(config, vectors.shape[1])
    model.centre, model.scale = _moments(vectors)
    if not resume:
        model.start_from(_sample(vectors, ROWS_A_CLUSTER * config.codes, settings.seed))
    run = {**config_to_dict(config), **dataclasses.asdict(settings), "items": len(vectors)}
    task = RqVaeTask(vectors, config, settings.seed)
    state = fit(model, task, settings, Checkpoint(checkpoint, run), resume, progress)
    return model.cpu(), state


def name_items(model: RqVae, vectors: Vectors, state: State) -> tuple[Paths, SidReport]:
    """Distinct codes int32[n, L] for vectors float32[n, D] by a trained RQ-VAE, and what they are worth.

    DataError for more items than paths. Memory: n latents, and a batch of distances.
    """
    latents = _latents(model, vectors)
    codebooks = model.codebooks.detach().numpy()
    nearest, codes = nearest_paths(latents, codebooks), distinct_paths(latents, codebooks)
    return codes, _report(model, vectors, nearest, codes, state)


def name_new_items(sids: SemanticIds, vectors: Vectors) -> Paths:
    """Codes int32[K, L] for vectors float32[K, D] of new items, by the RQ-VAE that named the others.

    Each takes the nearest path that nobody has, in their order (`paths.free_paths`). DataError where none is left.
    """
    assert sids.rqvae is not None
    config = RqVaeConfig(**{name: _tuple(value) for name, value in sids.manifest.config.items()})
    model = RqVae(config, vectors.shape[1])
    model.load_state_dict(load_file(sids.rqvae))
    model.eval()
    return free_paths(_latents(model, vectors), model.codebooks.detach().numpy(), sids.codes)


def _tuple(value: Any) -> Any:
    """A config's value as it was before JSON made a list of it."""
    return tuple(value) if isinstance(value, list) else value


class RqVaeTask:
    """Vectors to be said in codes. They are those of the items to be named, so none is held out."""

    metric = "explained variance"

    def __init__(self, vectors: Vectors, config: RqVaeConfig, seed: int) -> None:
        self._vectors = vectors
        self._spare = (config.levels, config.codes)
        self._valid = _sample(vectors, VALIDATION_ROWS, seed)
        self.rows = len(vectors)

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """RQ-VAE's loss summed over the given rows; rows drawn for the step stand by for codes that are dead."""
        device = next(model.parameters()).device
        spare = torch.randint(self.rows, self._spare).numpy()
        losses: Tensor = model(
            torch.from_numpy(self._vectors[rows]).to(device),
            torch.from_numpy(self._vectors[spare]).to(device),
        )
        return losses.sum()

    def validate(self, model: nn.Module) -> float:
        """The share of a sample's variance that its codes explain; RbserveError when training has diverged."""
        assert isinstance(model, RqVae)
        vectors = self._valid.to(model.centre.device)
        decoded = model.decoder(model.quantize(model.encode(vectors)).entries.sum(dim=1))
        explained = 1 - float((decoded - model.normalize(vectors)).square().mean())
        require_finite(bool(np.isfinite(explained)), "the error is")
        return explained


def _moments(vectors: Vectors) -> tuple[Tensor, Tensor]:
    """The mean [D], and what to multiply with for an average variance of 1; DataError for vectors not finite."""
    total, squares = np.zeros(vectors.shape[1]), 0.0
    for block in _blocks(vectors):
        total += block.sum(axis=0, dtype=np.float64)
    mean = total / len(vectors)
    for block in _blocks(vectors):
        squares += float(((block - mean) ** 2).sum())
    if not np.isfinite(squares):
        raise DataError("the items' vectors hold numbers that are not finite", "try another --encoder")
    alike = squares <= 1e-12 * len(vectors) * float((mean**2).sum())  # what differs is rounding
    scale = 1.0 if alike else (vectors.size / squares) ** 0.5
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def _sample(vectors: Vectors, most: int, seed: int) -> Tensor:
    """At most so many rows, drawn without repetition, in their order."""
    rows = np.random.default_rng((seed, most)).permutation(len(vectors))[:most]
    return torch.from_numpy(np.ascontiguousarray(vectors[np.sort(rows)]))


def _blocks(vectors: Vectors) -> Iterator[Vectors]:
    for begin in range(0, len(vectors), BATCH):
        yield vectors[begin : begin + BATCH]


def _latents(model: RqVae, vectors: Vectors) -> Vectors:
    """float32[n, d]"""
    with torch.inference_mode():
        return np.concatenate([model.encode(torch.from_numpy(block)).numpy() for block in _blocks(vectors)])


def _errors(model: RqVae, vectors: Tensor, codes: Tensor) -> Tensor:
    """[L]: what the codes [B, L] up to each level leave of the variance, summed over vectors [B, D]."""
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
    """How many codes are used, and their perplexity: so many equally frequent ones would be as varied."""
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / len(codes)
    return len(counts), float(np.exp(-(shares * np.log(shares)).sum()))
