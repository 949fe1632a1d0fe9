"""Items added to an artefact and retired, and the vectors of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import (
    needs_extra,
)
from rbserve.data.artifact import (
    Artifact,
    open_artifact,
)
from rbserve.home.places import (
    model_path,
)

if TYPE_CHECKING:
    from rbserve.core.types import Vectors
    from rbserve.pipeline.catalogue import Changed
    from rbserve.runtimes.item_vectors import Encode


def add_items(
    model: str, dataset: str, file: Path, item: str, text: str, delimiter: str | None = None
) -> Changed:
    """Adds a table's items to an artefact that is there (`pipeline.catalogue`)."""
    from rbserve.pipeline import catalogue

    artifact = open_artifact(model_path(model, dataset))
    with needs_extra("train", "adding items"):
        from rbserve.train.datasets.item_file import read_items
        from rbserve.train.protocol.tally import Tally

        tally = Tally()
        rows = list(read_items(file, item, text, tally, delimiter))
        return catalogue.add_items(artifact, rows, text_encoder(artifact), tally.dropped)


def retire_items(
    model: str, dataset: str, listed: Path | Sequence[str], item: str, delimiter: str | None = None
) -> Changed:
    """Retires items of an artefact that is there: those of a table's column, or those listed."""
    from rbserve.pipeline import catalogue

    artifact = open_artifact(model_path(model, dataset))
    if isinstance(listed, Path):
        with needs_extra("train", "reading a table of items"):
            from rbserve.train.datasets.item_file import read_ids

            listed = read_ids(listed, item, delimiter)
    return catalogue.retire_items(artifact, listed)


def text_encoder(artifact: Artifact) -> Encode:
    """Makes vectors of texts by the language model that made those of an artefact's items, loaded when it is needed.

    The vectors are kept in the cache, as those of a data set's items are.
    """
    config = artifact.manifest.config

    def encode(texts: Sequence[str]) -> Vectors:
        with needs_extra("train", f"vectors of texts by {config['encoder']}"):
            from rbserve.train.encoders.embed import embed_texts

            return embed_texts(texts, config["encoder"], config["pooling"])

    return encode


def serving_encoder(artifact: Artifact) -> Encode:
    """`text_encoder` for a server: the language model is loaded for the first text and stays; nothing is written."""
    config = artifact.manifest.config
    loaded: list[Any] = []

    def encode(texts: Sequence[str]) -> Vectors:
        if not loaded:
            with needs_extra("train", f"vectors of texts by {config['encoder']}"):
                import torch

                from rbserve.train.encoders.backbone import locate
                from rbserve.train.encoders.embed import MAX_TOKENS
                from rbserve.train.encoders.text_encoder import TextEncoder

                torch.set_num_threads(1)
                loaded.append(TextEncoder(locate(config["encoder"]), config["pooling"], MAX_TOKENS))
        vectors: Vectors = loaded[0].encode(texts)
        return vectors

    return encode
