"""Semantic identifiers on disk: every item's path of L codes, and the trie of all paths.

    <folder>/
      manifest.json       whose items, how the codes were made, what they are worth, file digests
      codes.npy           int32[n, L]: the path of each item, no two the same
      trie.{first_child,code,item,leaves}.npy     the tree of the paths (data/trie.py)
      rqvae.safetensors   what made the codes, so that new items can be named; absent in folders of version 0.1

A data set keeps them at data/<dataset>/sids/<key>/, several beside one another and outside its own manifest; an
artefact whose model speaks them has a copy at <artefact>/sids/. Both are read by the same reader.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError, UsageError
from rbserve.core.files import FileDigest, digest, mismatch, replacing_directory, write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.core.types import Items
from rbserve.data.dataset import Dataset
from rbserve.data.trie import Trie, build_trie

SCHEMA = 1
SEED = 2024
FOLDER = "sids"
MANIFEST = "manifest.json"
CODES = "codes.npy"
TRIE_ARRAYS = ("first_child", "code", "item", "leaves")
RQVAE = "rqvae.safetensors"
FILES = (MANIFEST, CODES, *(f"trie.{name}.npy" for name in TRIE_ARRAYS))
"""Every file of the folder but RQVAE: what an artefact lists, with FOLDER before it, in its own manifest."""

_HINT = "rbserve sids --rebuild makes them anew"


class LevelReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of the codes. Use and perplexity are those of the nearest codes, before items were told apart."""

    codes_used: int
    perplexity: float
    distinct_prefixes: float
    """Share of the items: 1 at the last level."""
    unexplained: float
    """Share of the vectors' variance that the prefix up to here leaves, the decoder reading it alone."""


class SidReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a set of identifiers is worth.

    `collision_rate` is the share of items whose nearest path another item has too; `moved` says how many items
    got another path than the nearest, `moved_earlier` how many of them a level before the last.
    """

    levels: list[LevelReport]
    collision_rate: float
    moved: int
    moved_earlier: int
    epochs: int
    best_epoch: int


class SidManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder of identifiers says of itself. `config` is the RQ-VAE's, `settings` its training's."""

    schema: int
    dataset: str
    fingerprint: str
    items: int
    config: dict[str, Any]
    settings: dict[str, Any]
    report: SidReport
    files: dict[str, FileDigest]


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The identifiers of n items: `codes` int32[n, L], each below `vocabulary` K, and the trie of their paths."""

    path: Path
    manifest: SidManifest
    codes: NDArray[np.int32]
    trie: Trie

    @property
    def levels(self) -> int:
        """L, the codes of a path."""
        return int(self.codes.shape[1])

    @property
    def vocabulary(self) -> int:
        """K, the codes of a level."""
        return int(self.manifest.config["codes"])

    @property
    def rqvae(self) -> Path | None:
        """The weights of what made the codes, where they were kept."""
        return self.path / RQVAE if RQVAE in self.manifest.files else None

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """int32[n, L]: the codes as tokens of one vocabulary; code c of level l is token l * K + c."""
        return self.codes + np.arange(self.levels, dtype=np.int32) * np.int32(self.vocabulary)

    @cached_property
    def tokens_by_level(self) -> NDArray[np.int32]:
        """int32[L, n]: `tokens`, those of a level side by side."""
        return np.ascontiguousarray(self.tokens.T)

    def __len__(self) -> int:
        return len(self.codes)

    def sharing(self, item: int, length: int) -> Items:
        """The items whose paths have exactly their first `length` codes in common with that of `item`."""
        common = np.logical_and.accumulate(self.codes == self.codes[item], axis=1).sum(axis=1)
        return np.flatnonzero(common == length).astype(np.int32)


class Coded(Protocol):
    """What of a config says which identifiers are meant: RqVaeConfig and SidSasRecConfig have it."""

    @property
    def encoder(self) -> str: ...
    @property
    def pooling(self) -> Literal["mean", "last"]: ...
    @property
    def levels(self) -> int: ...
    @property
    def codes(self) -> int: ...


def sids_path(dataset: Dataset, coded: Coded, seed: int = SEED) -> Path:
    """Where a data set keeps identifiers, for example in sids/minilm-l6.mean.4x256.2024."""
    encoder = coded.encoder.strip("/").replace("/", "--")
    key = f"{encoder}.{coded.pooling}.{coded.levels}x{coded.codes}.{seed}"
    return dataset.path / FOLDER / key


def find_semantic_ids(dataset: Dataset, coded: Coded, seed: int = SEED) -> SemanticIds | None:
    """The identifiers that a data set keeps, if it does; UsageError when they are of other items."""
    path = sids_path(dataset, coded, seed)
    if not (path / MANIFEST).is_file():
        return None
    sids = open_semantic_ids(path)
    check_same_items(sids, dataset)
    return sids


def write_semantic_ids(
    path: Path,
    dataset: Dataset,
    codes: NDArray[np.int32],
    config: dict[str, Any],
    settings: dict[str, Any],
    report: SidReport,
    save_rqvae: Callable[[Path], object] | None = None,
) -> SemanticIds:
    """Writes a folder, whole or not at all, in place of what stood there; `save_rqvae` writes what made the codes.

    DataError for paths that are not distinct; ValueError unless there is one for every item of the data set.
    """
    if len(codes) != len(dataset.items):
        raise ValueError(f"{len(codes)} paths for {len(dataset.items)} items")
    trie = build_trie(codes)
    with replacing_directory(path) as partial:
        if save_rqvae is not None:
            save_rqvae(partial / RQVAE)
        manifest = SidManifest(
            schema=SCHEMA,
            dataset=dataset.name,
            fingerprint=dataset.fingerprint,
            items=len(codes),
            config=config,
            settings=settings,
            report=report,
            files={},
        )
        _write_codes(partial, codes, trie, manifest)
    return open_semantic_ids(path)


def grow_semantic_ids(
    sids: SemanticIds, folder: Path, codes: NDArray[np.int32], retired: Collection[int]
) -> list[str]:
    """Writes a folder like that of `sids` with codes int32[n, L] instead; the names of its files.

    No path leads to a `retired` item: none is generated. Its codes stay, for histories.
    """
    live = np.setdiff1d(np.arange(len(codes), dtype=np.int32), [*retired])
    folder.mkdir(parents=True, exist_ok=True)
    if sids.rqvae is not None:
        shutil.copyfile(sids.rqvae, folder / RQVAE)
    manifest = msgspec.structs.replace(sids.manifest, items=len(codes))
    return _write_codes(folder, codes, build_trie(codes[live], live), manifest)


def _write_codes(folder: Path, codes: NDArray[np.int32], trie: Trie, manifest: SidManifest) -> list[str]:
    """Codes and trie, and the manifest with the digests of all that is in the folder."""
    np.save(folder / CODES, np.ascontiguousarray(codes, np.int32))
    for name in TRIE_ARRAYS:
        np.save(folder / f"trie.{name}.npy", getattr(trie, name))
    names = [name for name in (*FILES, RQVAE) if name != MANIFEST and (folder / name).is_file()]
    manifest = msgspec.structs.replace(manifest, files={name: digest(folder / name) for name in names})
    write_bytes(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return [MANIFEST, *names]


def open_semantic_ids(path: Path) -> SemanticIds:
    """Reads a folder of identifiers; DataError when it is absent, damaged or of another version."""
    manifest = _read_manifest(path / MANIFEST)
    for name, expected in manifest.files.items():
        if reason := mismatch(path / name, expected):
            raise DataError(f"semantic identifiers are damaged: {path / name} {reason}", _HINT)
    first_child, code, item, leaves = (_array(path / f"trie.{name}.npy") for name in TRIE_ARRAYS)
    codes = _array(path / CODES)
    return SemanticIds(path, manifest, codes, Trie(first_child, code, item, leaves, codes.shape[1]))


def copy_semantic_ids(sids: SemanticIds, folder: Path) -> list[str]:
    """Copies the identifiers into `folder`/sids, an artefact in the making; the names of the files there."""
    target = folder / FOLDER
    target.mkdir()
    names = [MANIFEST, *sids.manifest.files]
    for name in names:
        shutil.copyfile(sids.path / name, target / name)
    return [f"{FOLDER}/{name}" for name in names]


def check_same_items(sids: SemanticIds, dataset: Dataset) -> None:
    """Refuses to use identifiers with another data set's items: the same path would be another item."""
    if sids.manifest.fingerprint != dataset.fingerprint:
        raise UsageError(
            f"the semantic identifiers at {sids.path} are of data {sids.manifest.fingerprint[:12]}, "
            f"but data set {dataset.name} is {dataset.fingerprint[:12]}",
            _HINT,
        )


def check_made_with(sids: SemanticIds, options: Mapping[str, Any]) -> None:
    """UsageError when identifiers were made with another value of an option or setting than the given one."""
    there = {**sids.manifest.config, **sids.manifest.settings}
    for name, value in options.items():
        if there[name] != value:
            raise UsageError(
                f"the semantic identifiers at {sids.path} were made with {name} {there[name]}, not {value}",
                "--rebuild makes them anew; without that option, those that are there are used",
            )


def _read_manifest(file: Path) -> SidManifest:
    if not file.is_file():
        raise DataError(f"no semantic identifiers at {file.parent}", "rbserve sids makes them")
    return read_manifest(file, SidManifest, SCHEMA, "a manifest of semantic identifiers", _HINT)


def _array(file: Path) -> NDArray[np.int32]:
    array: NDArray[np.int32] = np.load(file, allow_pickle=False)
    return array
