"""Items that come and go while a model stays: rows are added to an artefact's item table, or retired, without training.

A row can be added where an item is made of something that a new item has too: words (group B), a vector of its text
(C, `sasrec-2l-emb`, `hstu`), its text itself (E), or codes of that vector (F, H, J and rows that predict all codes at
once). Existing rows keep their number, and their scores. The artefact is replaced as a whole; a server takes it up when
it is told to reload.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError, needs_extra
from rbserve.core.files import digest, replacing_directory
from rbserve.core.tasks import TASKS
from rbserve.core.types import Ranker, Scores, Vectors
from rbserve.core.variants import find_variant
from rbserve.data.artifact import (
    ITEM_STATES,
    ITEMS,
    WEIGHTS,
    Artifact,
    ArtifactManifest,
    CatalogueChanges,
    VariantRecord,
    open_artifact,
    write_manifest,
)
from rbserve.data.columns import Ragged, RaggedWriter, open_column
from rbserve.data.dataset import ItemTable, write_items
from rbserve.data.golden import GoldenAnswer, scored_otherwise, write_checks
from rbserve.data.mapped_items import MEMBERS, write_mapped_items
from rbserve.data.semantic_ids import FOLDER as SIDS
from rbserve.data.semantic_ids import MANIFEST as SIDS_MANIFEST
from rbserve.data.semantic_ids import RQVAE, grow_semantic_ids
from rbserve.exporters.item_index_growth import index_edits
from rbserve.features.opening import FOLDER as FIELDS
from rbserve.features.opening import open_coders
from rbserve.models.configs import (
    CodedItems,
    EmbeddingItems,
    EndpointConfig,
    GbdtConfig,
    ItemKnnConfig,
    P5Config,
    SasRecTextConfig,
    SeqP5Config,
    TextItems,
    TextLanguageConfig,
    ZeroShotConfig,
)
from rbserve.models.prompts import FOLDER as PROMPTS
from rbserve.models.prompts import ITEM_TOKENS, Prompts
from rbserve.runtimes.contents import artifact_prompts, artifact_tokenizer
from rbserve.runtimes.item_vectors import (
    Encode,
    OwnAndVectorContent,
    config_class,
    open_content,
    write_tensors,
)
from rbserve.runtimes.opening import open_ranker, open_scorer


class Edit(NamedTuple):
    """Files of an artefact that change, and the function that writes them into its directory."""

    names: list[str]
    write: Callable[[Path], object]


class Changed(msgspec.Struct, frozen=True):
    """The numbers of items that were added, retired or left as they were, and the size of the item table now.

    `returned` were retired before; `known` were there already, `repeated` are later rows of an id in the file,
    `left_out` says by reason what could not be read.
    """

    model: str
    items: int
    added: int = 0
    returned: int = 0
    retired: int = 0
    known: int = 0
    repeated: int = 0
    left_out: dict[str, int] = {}


TAKE_NEW_ITEMS = (
    TextItems, EmbeddingItems, SasRecTextConfig, ZeroShotConfig, TextLanguageConfig, EndpointConfig, GbdtConfig
)  # fmt: skip
"""The configs of models that make an item of its text, or of its fields and counts alone."""
FieldTexts = Mapping[str, Mapping[str, str | None]]
"""The values of item fields as texts, by the name of the field and the item's id; what is not there is missing."""


def why_no_new_items(artifact: Artifact) -> str | None:
    """The reason why an artefact cannot have items that it was not trained with, or None."""
    config = config_class(artifact)
    if issubclass(config, TAKE_NEW_ITEMS):
        return None
    if issubclass(config, CodedItems):
        if f"{SIDS}/{RQVAE}" in artifact.manifest.files:
            return None
        return "its semantic identifiers were made by an earlier version, which did not keep what made them"
    if issubclass(config, P5Config | SeqP5Config):
        return "each of its items is a token of its own, whose embedding is learnt from clicks"
    if issubclass(config, ItemKnnConfig):
        return "its items are their ids: a new item is nobody's neighbour before it is clicked"
    return "its items are their ids: an item's vector is learnt from clicks"


def _training_anew(artifact: Artifact) -> str:
    """The command after which the model has new items, in a few words."""
    if issubclass(config_class(artifact), ItemKnnConfig):
        return f"rbserve train --model {artifact.name} counts them in data that have them, in seconds"
    return f"rbserve train --init {artifact.path} continues it on data that have the new items"


def add_items(
    artifact: Artifact,
    new: Iterable[tuple[str, str]],
    encode: Encode,
    left_out: Mapping[str, int] | None = None,
    fields: FieldTexts | None = None,
) -> Changed:
    """Adds items (id, text) to an artefact, in its place; `encode` makes vectors of texts where the model reads them.

    `fields` has the values of item fields that the model reads. New items have no counts of training rows. Raises
    UsageError for a model whose items cannot be added and for a value that a field cannot have, ArtifactError where the
    model would then answer otherwise.
    """
    if reason := why_no_new_items(artifact):
        raise UsageError(
            f"no items can be added to {artifact.name}: {reason}",
            f"{_training_anew(artifact)}; rows that read texts (-text, -emb, sid-) take new items without training",
        )
    fresh, known, repeated = _sorted_out(artifact.items, new)
    retired = artifact.items.retired
    returned = {row for row in artifact.items.lookup(known).tolist() if row in retired}
    changed = Changed(
        artifact.name, len(artifact.items) + len(fresh), added=len(fresh), returned=len(returned),
        known=len(known) - len(returned), repeated=repeated, left_out=dict(left_out or {}),
    )  # fmt: skip
    if fresh or returned:
        items = ItemTable(
            [*artifact.items.ids, *fresh], [*artifact.items.texts, *fresh.values()], retired - returned
        )
        edits = [
            *_edits(artifact, items, [*fresh.values()], encode),
            *_field_edits(artifact, [*fresh], fields or {}),
        ]
        _replace(artifact, items, edits)
    return changed


def retire_items(artifact: Artifact, ids: Sequence[str]) -> Changed:
    """Retires items of an artefact, in its place: no candidates any more, never recommended, still read in histories.

    Raises UsageError for ids that it does not have, and where no item would be left.
    """
    table = artifact.items
    try:
        rows = {*table.lookup(ids).tolist()}
    except KeyError as error:
        unknown = list(dict.fromkeys(error.args[0]))
        raise UsageError(
            f"{artifact.name} has no item {', '.join(map(repr, unknown[:5]))}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            "nothing was changed; ids are those of the item table",
        ) from None
    retired = table.retired | rows
    if len(retired) == len(table):
        raise UsageError(f"all {len(table)} items of {artifact.name} would be retired", "leave one at least")
    new = rows - table.retired
    changed = Changed(
        artifact.name, len(table), retired=len(new), known=len(rows) - len(new), repeated=len(ids) - len(rows)
    )
    if new:
        items = ItemTable(table.ids, table.texts, retired)
        _replace(artifact, items, [*_edits(artifact, items, [], _no_encoder)])
    return changed


def _no_encoder(texts: Sequence[str]) -> Vectors:
    raise AssertionError(f"{len(texts)} texts to encode where none is new")


def _sorted_out(table: ItemTable, new: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str], int]:
    """Texts by id of the items that the table lacks, the ids that it has, and how many rows repeat an id."""
    fresh: dict[str, str] = {}
    known: dict[str, None] = {}
    rows = 0
    for item, text in new:
        rows += 1
        if table.find(item) is not None:
            known[item] = None
        else:
            fresh.setdefault(item, text)
    return fresh, list(known), rows - len(fresh) - len(known)


def _edits(artifact: Artifact, items: ItemTable, texts: Sequence[str], encode: Encode) -> Iterator[Edit]:
    """The files of an artefact that change with its new item table `items`, whose last rows have these texts."""
    yield Edit([ITEMS], lambda folder: write_items(folder / ITEMS, items))
    if MEMBERS[0] in artifact.manifest.files:
        yield Edit(MEMBERS, lambda folder: write_mapped_items(folder, items))
    config = config_class(artifact)
    if issubclass(config, CodedItems) and f"{SIDS}/{SIDS_MANIFEST}" in artifact.manifest.files:
        yield from _code_edits(artifact, items, texts, encode)
    elif texts and artifact.is_language_model:
        longest = int(artifact_prompts(artifact).items.lengths.max())  # a longer one would take others' room
        tokenizer = artifact_tokenizer(artifact)
        yield from _prompt_edits(artifact, [tokenizer.tokens(text)[:longest] for text in texts])
    elif texts and (content := open_content(artifact, encode)):
        grown, vectors = content.grown(texts), content.of_texts(texts)
        yield Edit([WEIGHTS], lambda folder: write_tensors(artifact, grown, folder / WEIGHTS))
        biases = content.biases(len(texts)) if isinstance(content, OwnAndVectorContent) else None
        for variant, record in artifact.manifest.variants.items():
            if not find_variant(variant).approximate:
                yield _graph_edit(artifact, variant, record, vectors, biases)
        yield from (Edit(*edit) for edit in index_edits(artifact, vectors, biases))


def _field_edits(artifact: Artifact, ids: Sequence[str], fields: FieldTexts) -> Iterator[Edit]:
    """The tables of the item fields that a model reads, with the values of new items of these ids at the end."""
    if not ids:
        return
    coders = open_coders(artifact)
    for spec in artifact.layout.fields:
        if spec.scope == "item":
            file, coder = f"{FIELDS}/{spec.entry}.npy", coders[spec.name]
            there = open_column(artifact.file(file)).reshape(-1, spec.width)
            earlier = [None] * (
                len(artifact.items) - len(there)
            )  # added by a version that knew no fields of them
            texts = [*earlier, *map(fields.get(spec.name, {}).get, ids)]
            new = coder.column(pa.array(texts, pa.string())).reshape(-1, spec.width)
            if coder.counts.malformed:
                raise UsageError(
                    f"{spec.name} of a new item is no number: {coder.counts.example!r}", "nothing was changed"
                )
            yield Edit([file], partial(_save_column, np.concatenate([there, new]).ravel(), file))


def _save_column(column: NDArray[Any], file: str, folder: Path) -> None:
    """Writes a column into an artefact's directory."""
    np.save(folder / file, column)


def _graph_edit(
    artifact: Artifact, variant: str, record: VariantRecord, vectors: Vectors, biases: Scores | None
) -> Edit:
    """An exported graph with vectors float32[K, d] behind its item table, and biases float32[K] of a ranking."""
    from rbserve.exporters.item_table import append_rows

    precision = find_variant(variant).precision
    source, *_ = (artifact.file(name) for name in record.files)  # weights beside it are read with it
    return Edit(
        record.files,
        lambda folder: append_rows(artifact, precision, source, folder / record.file, vectors, biases),
    )


def _prompt_edits(artifact: Artifact, tokens: Sequence[NDArray[Any]]) -> Iterator[Edit]:
    """The items' tokens and, of a model that has them, their states; those of new items last."""
    own = artifact_prompts(artifact)
    ends = np.cumsum([own.items.offsets[-1], *map(len, tokens)], dtype=np.int64)
    values = np.concatenate([own.items.values, *tokens]).astype(np.int32)
    items = Ragged(values, np.concatenate([own.items.offsets[:-1], ends]))

    def write(folder: Path) -> None:
        writer = RaggedWriter(folder / PROMPTS, ITEM_TOKENS)
        writer.append(items)
        writer.close()

    yield Edit([f"{PROMPTS}/{ITEM_TOKENS}.{part}.npy" for part in ("values", "offsets")], write)
    if ITEM_STATES in artifact.manifest.files:
        with needs_extra("train", "computing the states of new items"):
            from rbserve.runtimes.torch import write_states
        grown = Prompts(own.pieces, items)
        yield Edit([ITEM_STATES], lambda folder: write_states(artifact, folder / ITEM_STATES, grown))


def _code_edits(artifact: Artifact, items: ItemTable, texts: Sequence[str], encode: Encode) -> Iterator[Edit]:
    """The items' semantic identifiers, those of new items last, and a tree of those that may be generated."""
    sids = artifact.sids
    codes = sids.codes
    if texts:
        from rbserve.train.semantic_ids.fit_codes import name_new_items

        new = name_new_items(sids, encode(texts))
        codes = np.concatenate([codes, new])
        if artifact.is_language_model:
            tokens = new + np.arange(sids.levels, dtype=np.int32) * np.int32(sids.vocabulary)
            yield from _prompt_edits(artifact, [*(tokens + artifact_prompts(artifact).pieces.vocabulary)])

    def write(folder: Path) -> None:
        grow_semantic_ids(sids, folder / SIDS, codes, items.retired)

    yield Edit([f"{SIDS}/{name}" for name in (SIDS_MANIFEST, *sids.manifest.files)], write)


def _replace(artifact: Artifact, items: ItemTable, edits: Sequence[Edit]) -> None:
    """Writes an artefact anew with the edits, and lets it take the old one's place once it answers as before."""
    changed = {name for edit in edits for name in edit.names}
    with replacing_directory(artifact.path) as made:
        for file in artifact.path.rglob("*"):
            name = file.relative_to(artifact.path).as_posix()
            if file.is_file() and name not in changed:
                _link(file, made / name)
        for edit in edits:
            for name in edit.names:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
            edit.write(made)
        manifest = _manifest(artifact, items, made, changed)
        write_manifest(made, manifest)
        if renewed := _check_answers(Artifact(made, manifest), changed):
            write_manifest(made, _manifest(artifact, items, made, changed | renewed))
        if open_artifact(artifact.path).manifest != artifact.manifest:
            raise ArtifactError(
                f"{artifact.path} was changed by another command meanwhile; nothing was written", "try again"
            )


def _link(file: Path, target: Path) -> None:
    """Makes `target` a hard link to `file`, or a copy where the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _manifest(
    artifact: Artifact, items: ItemTable, folder: Path, changed: Collection[str]
) -> ArtifactManifest:
    """The manifest of the files in `folder`."""
    manifest = artifact.manifest
    trained = manifest.catalogue.trained if manifest.catalogue else len(artifact.items)
    variants = {
        variant: msgspec.structs.replace(
            record,
            data_files=[
                *(name for name in record.data_files if not name.endswith(".data")),
                *(f"{name}.data" for name in record.graphs if (folder / f"{name}.data").is_file()),
            ],
        )
        for variant, record in manifest.variants.items()
    }
    exported = {name for record in variants.values() for name in record.files}
    files = {
        name: digest(folder / name) if name in changed or name not in manifest.files else manifest.files[name]
        for name in sorted({*manifest.files, *exported})
        if (folder / name).is_file()
    }
    return msgspec.structs.replace(
        manifest, files=files, variants=variants,
        catalogue=CatalogueChanges(trained, len(items) - trained, len(items.retired)),
    )  # fmt: skip


def _check_answers(artifact: Artifact, changed: Set[str]) -> set[str]:
    """Compares exported variants with the answers that were stored at their export; returns the files of new checks.

    The score of a pair stays the same: ArtifactError if a graph or table that was written anew gives another. A ranking
    changes, since retired items leave it and new items join it: its checks are written anew, its graphs stay.
    """
    renewed = set()
    for variant, record in artifact.manifest.variants.items():
        checks = artifact.checks(variant)
        if checks is None or record.checks is None:
            continue
        if TASKS[artifact.manifest.task].ranks:
            ranker = open_ranker(artifact, variant)
            now = [_ranked_again(check, ranker) for check in checks.checks]
            write_checks(artifact.path / record.checks, now, checks.tolerance)  # a new file behind the name
            renewed.add(record.checks)
        elif changed & {record.file, ITEM_STATES}:
            difference = scored_otherwise(checks, open_scorer(artifact, variant).score)
            if difference:
                raise ArtifactError(
                    f"{artifact.name} {variant} would answer otherwise with these items: {difference}; "
                    "nothing was written",
                    "rbserve export writes the graph anew",
                )
    return renewed


def _ranked_again(check: GoldenAnswer, ranker: Ranker) -> GoldenAnswer:
    history = np.array(check.history, np.int32)
    return GoldenAnswer.of(history, *ranker.top_k(history, max(len(check.items), 1)))
