"""Finished item vectors of rows that make them of texts: of an artefact's own items, and of texts that its table lacks.

Groups B and C do, and the rankings with vectors of texts. Everything is NumPy over the weights file, without torch.
Except in group B, texts need the language model that made the vectors of the table; the caller passes it as `Encode`.
Shapes: K items at hand, d the width of an item vector, D that of a language model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.types import Items, Scores, Vectors
from rbserve.data.artifact import WEIGHTS, WORDS, Artifact
from rbserve.data.dataset import WORD_LIMIT
from rbserve.models.configs import CONFIGS, EmbeddingItems, ModelConfig, SasRecTextConfig, TextItems
from rbserve.models.words import MAX_WORDS, tokenize

Encode = Callable[[Sequence[str]], Vectors]
"""Vectors float32[K, D] of K texts by a language model."""
OF_ITEMS = "item_embedding."
VECTORS, OWN = "vectors", "own.weight"
BIAS, LIFE, NEW_ITEM, FRESHNESS = "item_bias", "item_life", "new_item", "freshness"
NEIGHBOUR_ROWS = tuple(f"neighbours.items.{name}" for name in ("neighbours", "weights", "prior"))
"""Tensors that the biases of a ranking are made of (`models/sasrec.py: TextSasRec`)."""
SAME_ENCODER = 1e-2
"""How far the vector of a known text may differ from the one the model was trained with, in standard deviations."""


class ItemContent(Protocol):
    """The source of an artefact's finished item vectors."""

    def of_rows(self, rows: Items) -> Vectors:
        """Vectors float32[K, d] of items int32[K] of the table."""
        ...

    def of_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32[K, d] of K texts."""
        ...

    def grown(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The tensors of the weights' file that change when items of these texts follow the last one."""
        ...


def config_class(artifact: Artifact) -> type[ModelConfig]:
    """The config class of an artefact; ModelConfig if this version does not know the artefact's kind."""
    return CONFIGS.get(artifact.manifest.config_kind, ModelConfig)


def content_kind(artifact: Artifact) -> type[WordContent] | type[VectorContent] | None:
    """The class of an artefact's item content: words (group B), vectors (group C), vectors beside the item's own, or
    None for other rows."""
    config = config_class(artifact)
    if issubclass(config, TextItems):
        return WordContent
    if issubclass(config, SasRecTextConfig):
        return OwnAndVectorContent
    return VectorContent if issubclass(config, EmbeddingItems) else None


def open_content(artifact: Artifact, encode: Encode) -> ItemContent | None:
    """The item content of an artefact that makes items of texts, else None; group B does not use `encode`.

    Raises UsageError without the safetensors library, ArtifactError for a damaged file.
    """
    kind = content_kind(artifact)
    if kind is WordContent:
        return WordContent(artifact)
    return kind(artifact, encode) if kind is not None and issubclass(kind, VectorContent) else None


class WordContent:
    """Group B: the mean of the words' embeddings; the zero vector without a known word."""

    def __init__(self, artifact: Artifact) -> None:
        tensors = item_tensors(artifact)
        self._embeddings: Vectors = tensors["words.weight"]
        self._values, self._offsets = tensors["values"], tensors["offsets"]
        table = pq.read_table(artifact.file(WORDS))
        self._number = {word: number for number, word in enumerate(table["word"].to_pylist())}
        word_limit = (table.schema.metadata or {}).get(WORD_LIMIT.encode())
        longest = int(np.diff(self._offsets).max(initial=0))
        self._limit = int(word_limit) if word_limit else max(MAX_WORDS, longest)

    def words(self, text: str) -> Items:
        """The numbers int32[W] of a text's known words."""
        try:
            tokens = tokenize(text)
        except ModuleNotFoundError:
            message = "texts with more than letters, digits and spaces need nltk to be split into words"
            raise UsageError(message, "pip install nltk") from None
        known = [self._number[word] for word in tokens if word in self._number]
        return np.array(known[: self._limit], np.int32)

    def of_rows(self, rows: Items) -> Vectors:
        """Vectors float32[K, d] of items of the table."""
        return self._means(
            [self._values[self._offsets[row] : self._offsets[row + 1]] for row in rows.tolist()]
        )

    def of_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32[K, d] of K texts."""
        return self._means([self.words(text) for text in texts])

    def grown(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """All items' words, those of the texts last."""
        added = [self.words(text) for text in texts]
        ends = self._offsets[-1] + np.cumsum([len(words) for words in added], dtype=np.int64)
        return {
            f"{OF_ITEMS}values": np.concatenate([self._values, *added]),
            f"{OF_ITEMS}offsets": np.concatenate([self._offsets, ends]),
        }

    def _means(self, texts: Sequence[NDArray[Any]]) -> Vectors:
        vectors = np.zeros((len(texts), self._embeddings.shape[1]), np.float32)
        for place, words in enumerate(texts):
            if len(words):
                vectors[place] = self._embeddings[words].mean(axis=0)
        return vectors


class VectorContent:
    """Group C: a projection of the text's vector from a language model, behind a layer of SiLU where there is one."""

    def __init__(self, artifact: Artifact, encode: Encode) -> None:
        tensors = item_tensors(artifact, leave=VECTORS)
        self._artifact, self._encode, self._same_encoder = artifact, encode, False
        self._table = open_tensors(artifact.path / WEIGHTS).get_slice(f"{OF_ITEMS}{VECTORS}")  # read by rows
        self._center, self._scale = tensors["center"], tensors["scale"]
        self._weight, self._bias = tensors["projection.weight"], tensors["projection.bias"]
        self._hidden = (
            (tensors["hidden.weight"], tensors["hidden.bias"]) if "hidden.weight" in tensors else None
        )

    def of_rows(self, rows: Items) -> Vectors:
        """Vectors float32[K, d] of items of the table."""
        if not len(rows):
            return np.empty((0, len(self._bias)), np.float32)
        return self._projected(np.concatenate([self._table[row : row + 1] for row in rows.tolist()]))

    def of_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32[K, d] of K texts."""
        return self._projected(self._standardised(texts))

    def grown(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """All items' vectors, those of the texts last."""
        return {f"{OF_ITEMS}{VECTORS}": np.concatenate([self._table[:], self._standardised(texts)])}

    def _standardised(self, texts: Sequence[str]) -> Vectors:
        self._require_same_encoder()
        made: Vectors = ((self._encode(texts) - self._center) * self._scale).astype(np.float32)
        return made

    def _projected(self, vectors: Vectors) -> Vectors:
        if self._hidden is not None:
            vectors = vectors @ self._hidden[0].T + self._hidden[1]
            vectors = vectors * (0.5 + 0.5 * np.tanh(0.5 * vectors))  # SiLU
        projected: Vectors = vectors @ self._weight.T + self._bias
        return projected

    def _require_same_encoder(self) -> None:
        """ArtifactError if the language model here gives an item's text another vector than it had in training.

        Not checked where training changed the vectors (`vectors` tuned).
        """
        config = self._artifact.manifest.config
        if self._same_encoder or config.get("vectors") == "tuned":
            return
        row = next(row for row, text in enumerate(self._artifact.items.texts) if text)
        vector = self._encode([self._artifact.items.texts[row]])[0]
        same_width = vector.shape == self._center.shape
        if (
            not same_width
            or np.abs((vector - self._center) * self._scale - self._table[row : row + 1]).max() > SAME_ENCODER
        ):
            raise ArtifactError(
                f"the language model {config.get('encoder')} is not the one that {self._artifact.name} was trained "
                f"with: it makes another vector of the text of {self._artifact.items.ids[row]}",
                "put the former model back, or train the row again",
            )
        self._same_encoder = True


class OwnAndVectorContent(VectorContent):
    """Rankings with vectors of texts: an item's own vector is added, and its score has a bias.

    An item that is added has no vector of its own, no neighbours, and the bias of one that training never saw.
    """

    def __init__(self, artifact: Artifact, encode: Encode) -> None:
        super().__init__(artifact, encode)
        with open_tensors(artifact.path / WEIGHTS) as file:
            self._own: Vectors = file.get_tensor(f"{OF_ITEMS}{OWN}")
            self._biases = {name: file.get_tensor(name) for name in (BIAS, LIFE, NEW_ITEM, FRESHNESS)}
            counted = NEIGHBOUR_ROWS if NEIGHBOUR_ROWS[0] in file.keys() else ()  # noqa: SIM118  (not a dict)
            self._neighbours = {name: file.get_tensor(name) for name in counted}

    def of_rows(self, rows: Items) -> Vectors:
        """Vectors float32[K, d] of items of the table."""
        vectors: Vectors = super().of_rows(rows) + self._own[rows]
        return vectors

    def grown(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """All items' vectors, those of the texts last, their own vectors and what else their scores are made of."""
        added, (bias, life) = len(texts), self._biases[NEW_ITEM]
        return super().grown(texts) | {
            f"{OF_ITEMS}{OWN}": with_zero_rows(self._own, added),
            BIAS: np.pad(self._biases[BIAS], (0, added), constant_values=bias),
            LIFE: np.pad(self._biases[LIFE], (0, added), constant_values=life),
            **{name: with_zero_rows(rows, added) for name, rows in self._neighbours.items()},
        }

    def biases(self, count: int) -> Scores:
        """The bias float32[K] of each of so many added items in the score."""
        bias, life = self._biases[NEW_ITEM]
        return np.full(count, bias + self._biases[FRESHNESS] * life, np.float32)


def with_zero_rows(rows: NDArray[Any], count: int) -> NDArray[Any]:
    """The rows [n, ...] of known items, and as many rows of zeros behind them as items are added."""
    return np.concatenate([rows, np.zeros((count, *rows.shape[1:]), rows.dtype)])


def item_tensors(artifact: Artifact, leave: str | None = None) -> dict[str, NDArray[Any]]:
    """The tensors of the item encoder by their names within it, its file verified; without the one to `leave`."""
    from safetensors import SafetensorError

    path = artifact.file(WEIGHTS)
    try:
        with open_tensors(path) as file:
            names = [name for name in file.keys() if name.startswith(OF_ITEMS)]  # noqa: SIM118  (not a dict)
            wanted = [name for name in names if name != f"{OF_ITEMS}{leave}"]
            return {name.removeprefix(OF_ITEMS): file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise ArtifactError(f"{path} does not hold the weights of {artifact.name}: {error}") from None


def write_tensors(artifact: Artifact, changed: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Writes an artefact's weights to `path` with some tensors changed."""
    from safetensors.numpy import save_file

    with open_tensors(artifact.file(WEIGHTS)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        save_file({**tensors, **changed}, path, file.metadata())


def open_tensors(path: Path) -> Any:
    """A safetensors file, read as NumPy arrays; UsageError without the library."""
    try:
        from safetensors import safe_open
    except ModuleNotFoundError:
        raise UsageError("texts of new items need safetensors", "pip install safetensors") from None
    return safe_open(path, framework="np")
