"""Text embeddings by a frozen language model, computed once and cached: the input of group C and of RQ-VAEs.

Vectors are cached in a file for each chunk of texts, named by a digest of the texts. The folder is named by a digest
of the other inputs: the encoder's files, pooling, and the length at which texts are cut. An unfinished chunk has a
file of its own, rewritten every few seconds. A run that was killed continues there and gives the same bytes as one
that was not, since texts run through the encoder in the same pieces.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rbserve.core.errors import UsageError
from rbserve.core.files import cache, optional_write, replacing
from rbserve.core.types import Progress, no_progress
from rbserve.data.dataset import Dataset
from rbserve.models.item_tower import POOLINGS
from rbserve.models.rqvae_config import Pooling
from rbserve.train.encoders.backbone import identity, locate
from rbserve.train.encoders.text_encoder import TextEncoder, Vectors

CHUNK = 512
"""Texts in a cached file."""
PIECE = 32
"""Texts that run through the encoder between two reports of progress."""
SAVE_S = 5.0
"""The most seconds of work that a killed process loses, beside its running piece."""
MAX_TOKENS = 256


def item_vectors(
    dataset: Dataset,
    encoder: str,
    pooling: Pooling = "mean",
    progress: Progress = no_progress,
    layers: int | None = None,
) -> Vectors:
    """The vectors float32[n_items, D] of a data set's item texts; with `layers` by the encoder's first layers alone."""
    return embed_texts(dataset.items.texts, encoder, pooling, progress=progress, layers=layers)


def embed_texts(
    texts: Sequence[str],
    encoder: str,
    pooling: Pooling = "mean",
    max_tokens: int = MAX_TOKENS,
    progress: Progress = no_progress,
    layers: int | None = None,
) -> Vectors:
    """Vectors float32[N, D] of N texts; `encoder` is a name of BACKBONES, a hub id or a directory.

    With `layers` only that many of its first layers are run.
    Raises AssetError if the encoder cannot be loaded, UsageError for an option out of range.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"unknown pooling: {pooling}", f"known: {', '.join(POOLINGS)}")
    if max_tokens < 1:
        raise UsageError(f"max_tokens must be at least 1, not {max_tokens}")
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    row = {text: number for number, text in enumerate(distinct)}
    pieces = list(_chunks(distinct, encoder, pooling, max_tokens, progress, layers))
    vectors: Vectors = np.concatenate(pieces) if pieces else np.empty((0, 0), np.float32)
    return vectors[[row[text] for text in texts]]


def _chunks(
    texts: Sequence[str],
    encoder: str,
    pooling: Pooling,
    max_tokens: int,
    progress: Progress,
    layers: int | None,
) -> Iterator[Vectors]:
    """Yields the vectors of each chunk of texts. Loads the model for the first chunk that is not cached."""
    folder = locate(encoder)
    files = (
        cache()
        / "embeddings"
        / _digest([identity(folder), pooling, max_tokens, *([] if layers is None else [layers])])
    )
    model: TextEncoder | None = None

    def report(done: int) -> None:
        progress(done, len(texts), f"texts through {encoder}")

    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        file = files / f"{_digest(chunk)}.npy"
        vectors = _read(file)
        if vectors is None or len(vectors) != len(chunk):
            report(start)
            model = model or TextEncoder(folder, pooling, max_tokens, layers)
            vectors = _encode(model, chunk, file, start, report)
        report(start + len(chunk))
        yield vectors


def _encode(
    model: TextEncoder, chunk: Sequence[str], file: Path, before: int, report: Callable[[int], None]
) -> Vectors:
    """Encodes a chunk and writes its vectors to `file`; until it is finished, to a file beside it.

    Calls `report` with the number of texts that are done, with the `before` of earlier chunks.
    """
    unfinished = file.with_suffix(".part.npy")
    begun = _read(unfinished)
    pieces = [] if begun is None or len(begun) % PIECE else [begun]
    done = sum(map(len, pieces))
    saved = time.monotonic()
    while done < len(chunk):
        pieces.append(model.encode(chunk[done : done + PIECE]))
        done += len(pieces[-1])
        report(before + done)
        if done < len(chunk) and time.monotonic() - saved >= SAVE_S:
            _write(unfinished, np.concatenate(pieces))
            saved = time.monotonic()
    vectors: Vectors = np.concatenate(pieces)
    _write(file, vectors)
    with optional_write("an encoder's vectors of texts"):
        unfinished.unlink(missing_ok=True)
    return vectors


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> Vectors | None:
    """The vectors of a cached file; None if it is missing or damaged."""
    try:
        vectors: Vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.ndim == 2 and vectors.dtype == np.float32 else None


def _write(file: Path, vectors: Vectors) -> None:
    cached = optional_write("an encoder's vectors of texts")
    with cached, replacing(file) as partial, partial.open("wb") as opened:
        np.save(opened, vectors, allow_pickle=False)
