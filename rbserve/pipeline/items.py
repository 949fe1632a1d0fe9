"""Adds items to an artefact, retires items, and makes vectors of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import needs_extra, unknown_name
from rbserve.data.artifact import Artifact
from rbserve.machine.environment import usable_cores

if TYPE_CHECKING:
    from rbserve.core.types import Vectors
    from rbserve.pipeline.catalogue import Changed
    from rbserve.runtimes.item_vectors import Encode


def add_items(
    artifact: Artifact,
    file: Path,
    item: str,
    text: str,
    delimiter: str | None = None,
    fields: Sequence[str] = (),
) -> Changed:
    """Adds the items of a table to an artefact; `item` and `text` are its columns of ids and texts.

    `fields` are columns that have item fields which the model reads, under the fields' names. Of a field that is left
    out, the new items have no value.
    """
    from rbserve.pipeline import catalogue

    known = {spec.name: spec for spec in artifact.layout.fields if spec.scope == "item"}
    for name in fields:
        if name not in known:
            raise unknown_name(f"item field of {artifact.name}", name, [*known])
    with needs_extra("train", "adding items"):
        from rbserve.train.datasets.item_file import TableStyle, read_item_fields
        from rbserve.train.protocol.tally import Tally

        tally, chosen = Tally(), {name: known[name] for name in fields}
        rows = [*read_item_fields(file, item, text, chosen, tally, TableStyle(delimiter))]
        values: dict[str, dict[str, str | None]] = {name: {} for name in fields}
        for new, _, *own in reversed(rows):  # of an id that is repeated, the first row counts
            for name, value in zip(fields, own, strict=True):
                values[name][str(new)] = value
        named = [(str(new), str(own_text)) for new, own_text, *_ in rows]
        return catalogue.add_items(artifact, named, text_encoder(artifact), tally.dropped, values)


def retire_items(
    artifact: Artifact, listed: Path | Sequence[str], item: str, delimiter: str | None = None
) -> Changed:
    """Retires items of an artefact: those in the column `item` of a table, or those listed."""
    from rbserve.pipeline import catalogue

    if isinstance(listed, Path):
        with needs_extra("train", "reading a table of items"):
            from rbserve.train.datasets.item_file import read_ids

            listed = read_ids(listed, item, delimiter)
    return catalogue.retire_items(artifact, listed)


def text_encoder(artifact: Artifact) -> Encode:
    """A function from texts to vectors, by the language model that made the vectors of the artefact's items.

    The language model is loaded at the first call; the vectors are kept in the cache, like those of a data set's items.
    An artefact with a tower has its own language model, whose vectors are not kept.
    """
    if artifact.has_tower:
        return _tower_encoder(artifact, usable_cores())
    config = artifact.manifest.config

    def encode(texts: Sequence[str]) -> Vectors:
        with needs_extra("train", f"vectors of texts by {config['encoder']}"):
            from rbserve.train.encoders.embed import embed_texts

            return embed_texts(texts, config["encoder"], config["pooling"])

    return encode


def serving_encoder(artifact: Artifact) -> Encode:
    """A function from texts to vectors for a server: the language model stays loaded, and nothing is written."""
    if artifact.has_tower:
        return _tower_encoder(artifact, threads=1)
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


def _tower_encoder(artifact: Artifact, threads: int) -> Encode:
    """A function from texts to vectors by the artefact's own tower, which is opened at the first call."""

    @cache
    def opened() -> Encode:
        from rbserve.runtimes.item_tower import open_tower

        return open_tower(artifact, threads)

    return lambda texts: opened()(texts)
