"""Frozen language models as text encoders: found by name, known by the digest of their files, run on token ids.

An encoder is a name of BACKBONES, a hub id, or a directory in the format of transformers. Anything with hidden
states will do, encoders and decoders alike.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.assets import fetch
from rbserve.core.errors import AssetError, UsageError
from rbserve.core.files import sha256
from rbserve.models.zoo import BACKBONES

Pooling = Literal["mean", "last"]
Vectors = NDArray[np.float32]

BATCH_TOKENS = 8_192
"""Tokens, padding included, that run through the model at once."""

_SAFE_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_WEIGHTS = "*.bin"


def locate(encoder: str) -> Path:
    """The directory that holds an encoder's files, fetched the first time.

    Raises AssetError when they cannot be had, UsageError for a model that has no files.
    """
    if Path(encoder).is_dir():
        if not (Path(encoder) / "config.json").is_file():
            raise AssetError(f"{encoder} holds no language model: it has no config.json", _hint())
        return Path(encoder)
    backbone = BACKBONES.get(encoder)
    if backbone and backbone.asset:
        return fetch(backbone.asset)
    if backbone and backbone.architecture == "api":
        raise UsageError(f"{encoder} is an API without weights: it makes no vectors", _hint())
    return _from_hub(backbone.hub_id if backbone else encoder)


def identity(folder: Path) -> str:
    """A digest of what an encoder's vectors depend on: its weights, config and tokeniser."""
    sha = hashlib.sha256()
    for file in sorted(file for pattern in (*_SAFE_FILES, _OTHER_WEIGHTS) for file in folder.glob(pattern)):
        sha.update(f"{file.name} {sha256(file)}\n".encode())
    return sha.hexdigest()


class TextEncoder:
    """A language model in eval mode and fp32, with its tokeniser."""

    def __init__(self, folder: Path, pooling: Pooling, max_tokens: int) -> None:
        """`max_tokens` is where a text is cut; a model that reads less cuts earlier."""
        self._tokenizer, self._model = _load(folder)
        self._pooling = pooling
        self._max_tokens = min(max_tokens, self._tokenizer.model_max_length)
        self._pad = self._tokenizer.pad_token_id or 0  # whatever it is, the mask hides it

    @property
    def width(self) -> int:
        """D, how many numbers a vector has."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32[N, D]; a text without a token is the zero vector. Texts of like length run together."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        vectors = np.zeros((len(texts), self.width), np.float32)
        with torch.inference_mode():
            for rows in _batches([len(ids) for ids in tokens]):
                ids, mask = _padded([tokens[row] for row in rows], self._pad)
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors[rows] = POOLINGS[self._pooling](hidden.float(), mask).numpy()
        return vectors


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's own tokens, as sentence-transformers makes it: [B, L, D] -> [B, D]."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """A text's last token, the only one that a decoder has read the whole text at: [B, L, D] -> [B, D]."""
    return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]


POOLINGS = {"mean": _mean, "last": _last}


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows that have tokens, shortest first, in batches of at most BATCH_TOKENS once padded."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > BATCH_TOKENS:
            yield batch
            batch = []
        if lengths[row]:
            batch.append(row)
    if batch:
        yield batch


def _padded(tokens: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64[B, L], padded on the right: a token's position does not depend on its neighbours."""
    rows = [torch.tensor(ids) for ids in tokens]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokeniser and model."""
    from transformers import AutoModel, AutoTokenizer

    load_tokenizer: Callable[..., Any] = AutoTokenizer.from_pretrained

    with torch.random.fork_rng(), _quiet_transformers():  # a head that the files lack is drawn at random
        try:
            tokenizer = load_tokenizer(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise AssetError(
                f"cannot load a language model from {folder}: {str(error).splitlines()[0]}", _hint()
            ) from None
    return tokenizer, model.eval()


def _from_hub(hub_id: str) -> Path:
    """A snapshot in the hub's own cache; weights in safetensors where there are any."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_SAFE_FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=[_OTHER_WEIGHTS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AssetError(f"cannot get language model {hub_id}: {reason}", _hint()) from None
    return folder


def _hint() -> str:
    ready = ", ".join(name for name, backbone in BACKBONES.items() if backbone.asset)
    return f"give a directory with config.json, weights and tokeniser, or one that needs no hub: {ready}"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its advice on weights that a model of another purpose would have."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
