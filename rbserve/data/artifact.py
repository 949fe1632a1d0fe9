"""An artefact: one trained model with everything scoring needs, in one directory.

    artifacts/<dataset>/<model>/
      manifest.json        spec, config, data fingerprint, training record, variants, file digests
      model.safetensors    weights; of trees model.txt, a file of LightGBM
      items/               of many items, the same table as memory-mapped columns (data/mapped_items.py)
      items.parquet        item_id, text: the item table of the data set it was trained on, then items that were
                           added since; retired, where some were
      sids/                semantic identifiers, of a model that reads them
      words.parquet        word, items: the vocabulary, where a model reads texts
      fields/              of a model that reads fields: item.<name>.npy, a value an item; values.<name>.parquet
      counted/             of a model that reads counted features: the tables that they are looked up in
      prompt/              prompts as token ids, of a language model; states.npy, where candidates meet the history
                           late: the states of every item's tokens
      backbone/            its config and tokeniser
      tower/               weights, config and tokeniser of the encoder of texts, where it was trained with the model
      onnx/<precision>.onnx, of a generating model <precision>.prefill.onnx and <precision>.step.onnx
      onnx/tower.onnx      the encoder of texts, where it was trained with the model
      index/               of a ranking with an index: encoder, item vectors, <index>.faiss and its effort
      onnx/<precision>.checks.json   a few requests and what the variant answered them

Nothing is pickled and nothing outside the directory is needed. Every file is checked against its sha256
before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.distillation import Distillation
from rbserve.core.errors import ArtifactError
from rbserve.core.fields import FieldSpec, Layout
from rbserve.core.files import FileDigest, digest, mismatch, replacing_directory, write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.core.requests import ZOO_SIGNATURE, FeatureSpec, Signature
from rbserve.core.settings import Computation
from rbserve.core.variants import (
    DEFAULT_SERVED,
    NOTHING,
    UNCHANGED,
    ModelKind,
    find_variant,
    kind_of_model,
    possible_variants,
)
from rbserve.core.variants import WEIGHTS as OF_WEIGHTS
from rbserve.data.dataset import ItemTable, read_items
from rbserve.data.golden import Checks, read_checks
from rbserve.data.mapped_items import FOLDER as MAPPED
from rbserve.data.mapped_items import MEMBERS, item_members, open_mapped_items, write_mapped_items
from rbserve.data.semantic_ids import FOLDER, MANIFEST, SemanticIds, open_semantic_ids

SCHEMA = 1
WEIGHTS = "model.safetensors"
TREES = "model.txt"
ITEMS = "items.parquet"
WORDS = "words.parquet"
BACKBONE = "backbone/config.json"
LAYERS = "layers/config.json"
"""The config of the language model whose first layers read items as tokens."""
TOWER, TOWER_CONFIG, TOWER_TOKENIZER = "tower/model.safetensors", "tower/config.json", "tower/tokenizer.json"
"""The language model that reads texts of items, where it was trained with the model: weights, config, tokeniser."""
TOWER_GRAPH = "onnx/tower.onnx"
TOKENIZER = "backbone/tokenizer.json"
ITEM_STATES = "prompt/states.npy"


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an exported variant's scores differ from the reference's on the same real rows.

    Where labels are grades, nDCG of the candidates of each request takes the place of AUC.
    Of a list-wise model the scores are those of the items that both have among their first `k`, `same_top` is the
    share of rows in which these are the same items, and nDCG takes the place of AUC. `correlation` is that of log-odds.
    `recall` is the mean share of the reference's items that an index finds.
    """

    rows: int
    max_abs: float
    mean_abs: float
    auc_reference: float | None
    auc: float | None
    auc_difference: float | None
    k: int | None = None
    same_top: float | None = None
    ndcg_reference: float | None = None
    ndcg: float | None = None
    correlation: float | None = None
    recall: float | None = None


class VariantRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exported file and what its export found out.

    `step_file` continues what `file` has begun (beam search); `data_files` hold weights too large for a graph's file;
    `checks` has a few requests and what the variant answered them (`data.golden`). `activation_scales` says what has a
    scale of its own where activations are integers: each product, token or block; null in fp32 and in files of version
    0.1, which did not say. `tower` is the graph that makes vectors of new texts, the same one for all variants, and the
    file of its weights if they are large.
    """

    file: str
    parity: Parity
    warnings: list[str] = []
    step_file: str | None = None
    data_files: list[str] = []
    checks: str | None = None
    activation_scales: str | None = None
    tower: list[str] = []

    @property
    def graphs(self) -> list[str]:
        """In the order in which they run."""
        return [self.file] if self.step_file is None else [self.file, self.step_file]

    @property
    def files(self) -> list[str]:
        """Everything that the variant is loaded from."""
        return [*self.graphs, *self.data_files]

    @property
    def exported(self) -> list[str]:
        """Everything that its export wrote."""
        return [*self.files, *self.tower, *([] if self.checks is None else [self.checks])]


class Continued(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The artefact whose weights a training began with: its name, `model_digest` and data, and how many of the new
    data's items it knew."""

    name: str
    model_digest: str
    fingerprint: str
    known_items: int
    new_items: int

    @property
    def said(self) -> str:
        """In a few words."""
        return f"continued from {self.name} {self.model_digest[:12]}, {self.new_items:,} new items"


class TrainingRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights came about. `taken_from` names the row they were trained (and validated) as, if another.

    `random`: they were drawn, not learnt; the model has its true shape, and nothing to say. `distilled`: they were
    learnt from another model's scores. `continued`: they began as those of another artefact. `computation`: what they
    were computed on; None for random weights and in older artefacts.
    """

    seed: int
    settings: dict[str, Any]
    epochs: int
    best_epoch: int
    metric: str
    best_metric: float | None
    seconds: float
    taken_from: str | None = None
    random: bool = False
    distilled: Distillation | None = None
    continued: Continued | None = None
    computation: Computation | None = None


class PromptFit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many prompts of a split have no room for all `items` of their histories, and how many items they lose.

    A prompt has at most `max_tokens` tokens and the `max_items` newest items.
    """

    prompts: int
    cut: int
    items: int
    lost: int
    max_tokens: int
    max_items: int

    def said(self, split: str) -> str | None:
        """One line of what is lost, if anything is."""
        if not self.cut:
            return None
        return (
            f"{self.cut:,} of {self.prompts:,} {split} prompts lose their oldest items: {self.lost:,} of "
            f"{self.items:,} ({self.lost / self.items:.1%}) do not fit into max_tokens={self.max_tokens} "
            f"and {self.max_items} places"
        )


class DatasetReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data set an artefact belongs to."""

    name: str
    fingerprint: str


class Adopted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that was made elsewhere, as `rbserve adopt` found it.

    `kind` says what it runs as (`core.variants.ModelKind`), `format` what it was given as: onnx, lightgbm, xgboost,
    catboost, sklearn, transformers, torch-export, python. `source` is the name of the file or the text that named it,
    `files` are the members that its reference is loaded from. `signature` has its tensors, `guessed` a line for each
    thing that was not said and had to be guessed. `requests` is the request set that it is judged on. `callable` is
    the `module:factory` of a Python model, which is the user's own code. `features` are the columns that fill the
    inputs, by which a server is asked. `unchanged` has the precisions that would change nothing, in which it is not
    exported therefore, and why.
    """

    kind: ModelKind
    format: str
    source: str
    signature: Signature
    requests: DatasetReference
    files: list[str] = []
    guessed: list[str] = []
    callable: str | None = None
    features: dict[str, FeatureSpec] = {}
    unchanged: dict[str, str] = {}


class CatalogueChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the item table differs from the data set's: its first `trained` rows are those, then `added` ones follow.

    `retired` rows are still there, and are no candidates any more.
    """

    trained: int
    added: int
    retired: int


class ArtifactManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an artefact says of itself. `config_kind` names the config class that `config` belongs to.

    `prompts` says by split what a language model's prompts have no room for, `catalogue` what became of the items
    since the training. `fields` are those that the model reads. `adopted` is there where the model was made elsewhere;
    its `dataset` is then the request set, or the prepared data set whose test rows the requests are. `chosen` has the
    values of options of the config that were not set and chosen on validation.
    """

    schema: int
    name: str
    group: str
    task: str
    item_form: str
    config_kind: str
    config: dict[str, Any]
    dataset: DatasetReference
    training: TrainingRecord
    libraries: dict[str, str]
    files: dict[str, FileDigest]
    variants: dict[str, VariantRecord] = {}
    prompts: dict[str, PromptFit] = {}
    catalogue: CatalogueChanges | None = None
    adopted: Adopted | None = None
    fields: list[FieldSpec] = []
    chosen: dict[str, float] = {}


@dataclass(frozen=True)
class Artifact:
    """An opened artefact. `file(name)` gives the path of a member after checking its digest."""

    path: Path
    manifest: ArtifactManifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def variants(self) -> list[str]:
        """What is measured where nobody names variants: the reference, then whatever was exported."""
        usual = [name for name in self._possible if (row := find_variant(name)).usual and not row.exported]
        return [*usual, *self.manifest.variants]

    @property
    def usual_variants(self) -> list[str]:
        """The variants that are exported and measured where nobody names any."""
        return [name for name in self._possible if find_variant(name).usual]

    @property
    def can_open(self) -> list[str]:
        """`variants`, and those that are loaded from the same files."""
        there = (name for name in self._possible if self._has_files(name))
        return list(dict.fromkeys((*self.variants, *there)))

    @property
    def can_export(self) -> tuple[str, ...]:
        """The exported variants that such a model can have."""
        return tuple(name for name in self.can_have if find_variant(name).exported)

    @property
    def can_have(self) -> list[str]:
        """Every variant that such a model can be scored with, exported or not."""
        return list(dict.fromkeys((*self.can_open, *self._possible)))

    @property
    def _possible(self) -> list[str]:
        unchanged = self.unchanged
        rows = map(find_variant, possible_variants(self.manifest.task, self.kind))
        return [row.name for row in rows if not (row.exported and row.precision in unchanged)]

    @property
    def unchanged(self) -> Mapping[str, str]:
        """The precisions that would change nothing in the model, and why: it is not exported in them."""
        return self.manifest.adopted.unchanged if self.manifest.adopted else UNCHANGED.get(self.kind, {})

    def _has_files(self, variant: str) -> bool:
        return find_variant(variant).loaded_from in (OF_WEIGHTS, NOTHING, *self.manifest.variants)

    @property
    def kind(self) -> ModelKind:
        """What the model is, as far as its variants depend on it."""
        if self.manifest.adopted:
            return self.manifest.adopted.kind
        return kind_of_model(self.manifest.config_kind, self.is_language_model)

    @property
    def signature(self) -> Signature:
        """The tensors that the model takes and gives, of a model that scores candidates."""
        return self.manifest.adopted.signature if self.manifest.adopted else ZOO_SIGNATURE

    @cached_property
    def layout(self) -> Layout:
        """The fields that the model reads; none of most models."""
        return Layout(tuple(self.manifest.fields))

    @property
    def has_own_requests(self) -> bool:
        """Whether it is judged on a request table of its own, rather than on the rows of a data set."""
        adopted = self.manifest.adopted
        return adopted is not None and adopted.requests.fingerprint == self.manifest.dataset.fingerprint

    @property
    def is_adopted(self) -> bool:
        """Whether the model was made elsewhere: it takes the tensors of its own signature, not items of a table."""
        return self.manifest.adopted is not None

    @property
    def is_reranker(self) -> bool:
        """Whether the model was made elsewhere and its graph reads the tokens of texts."""
        return self.is_adopted and self.manifest.item_form == "text"

    @property
    def is_language_model(self) -> bool:
        """Whether the model reads prompts."""
        return BACKBONE in self.manifest.files

    @property
    def has_tower(self) -> bool:
        """Whether it has the encoder of its items' texts, which was trained with the model."""
        return TOWER in self.manifest.files

    @property
    def is_random(self) -> bool:
        """Whether the weights were drawn: latency can be measured, accuracy has no meaning."""
        return self.manifest.training.random

    @property
    def is_endpoint(self) -> bool:
        """Whether the model answers from elsewhere, and has no weights here."""
        return self.kind == "endpoint"

    @property
    def model_digest(self) -> str:
        """Hex digest of the files that the model was packaged with; exporting a variant leaves it as it is.

        Those of an adopted model include its graph in fp32, which is a variant as well.
        """
        exported = {name for record in self.manifest.variants.values() for name in record.exported}
        if self.is_adopted and (graph := self.exported(DEFAULT_SERVED)):
            exported -= {*graph.files}
        own = sorted(
            (name, file.sha256)
            for name, file in self.manifest.files.items()
            if name not in exported and not name.startswith(f"{MAPPED}/")  # which are items.parquet once more
        )
        return hashlib.sha256(msgspec.json.encode(own)).hexdigest()

    def exported(self, variant: str) -> VariantRecord | None:
        """What a variant is loaded from, if that was exported."""
        return self.manifest.variants.get(find_variant(variant).loaded_from)

    def slate_dependence(self, variant: str) -> str | None:
        """What to say of a variant whose accuracy at one size of slate is not that of another; None of all others.

        In int8 files of version 0.1, but for language models, all activations of a call share a scale.
        """
        record, precision = self.manifest.variants.get(variant), find_variant(variant).precision
        if record is None or precision != "int8" or self.is_language_model or record.activation_scales:
            return None
        return (
            "its scores depend on what else is in the slate (exported by version 0.1): "
            f"rbserve export --model {self.path} --precision {precision} makes it anew"
        )

    def checks(self, variant: str) -> Checks | None:
        """What an exported variant answered when it was made; None where that was not written down."""
        record = self.exported(variant)
        if record is None or record.checks is None:
            return None
        checks, row = read_checks(self.file(record.checks)), find_variant(variant)
        return checks if row.exported else msgspec.structs.replace(checks, tolerance=row.tolerance)

    @cached_property
    def items(self) -> ItemTable:
        if MEMBERS[0] not in self.manifest.files:
            return read_items(self.file(ITEMS))
        for name in MEMBERS:
            self.file(name)
        return open_mapped_items(self.path)

    @cached_property
    def sids(self) -> SemanticIds:
        """The items' semantic identifiers, of a model that reads them."""
        return open_semantic_ids(self.file(f"{FOLDER}/{MANIFEST}").parent)

    def file(self, name: str) -> Path:
        """The path of a member file; ArtifactError when it is missing, truncated or tampered with."""
        path = self.path / name
        if name not in self.manifest.files:
            raise ArtifactError(
                f"artefact {self.path} has no file {name}", f"rbserve export --model {self.path}"
            )
        reason = mismatch(path, self.manifest.files[name])
        if reason:
            raise ArtifactError(
                f"artefact {self.name} is damaged: {path} {reason}",
                f"restore the file, or make the artefact anew with rbserve {'adopt' if self.is_adopted else 'train'}",
            )
        return path

    def variant_files(self, variant: str) -> list[str]:
        """The members that hold a variant's weights, and its items' states; none where it is not exported."""
        states = [ITEM_STATES] if ITEM_STATES in self.manifest.files else []
        if find_variant(variant).loaded_from == OF_WEIGHTS:
            own = [TREES] if self.kind == "trees" else [WEIGHTS]
            return self.manifest.adopted.files if self.manifest.adopted else own + states
        record = self.exported(variant)
        return record.files + states if record else []


def open_artifact(path: Path) -> Artifact:
    """Opens an artefact; ArtifactError when it is absent, unreadable or of another version."""
    file = path / "manifest.json"
    if not file.is_file():
        raise ArtifactError(f"no artefact at {path}", "rbserve train makes one")
    manifest = read_manifest(
        file,
        ArtifactManifest,
        SCHEMA,
        "an artefact manifest",
        "rbserve train, or adopt, makes it anew",
        ArtifactError,
    )
    return Artifact(path, manifest)


def write_manifest(path: Path, manifest: ArtifactManifest) -> None:
    """Writes manifest.json, atomically."""
    write_bytes(path / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))


def with_mapped_items(artifact: Artifact) -> Artifact:
    """The artefact with its item table as memory-mapped columns beside items.parquet, if it has many items."""
    if MEMBERS[0] in artifact.manifest.files or artifact.is_adopted or not item_members(artifact.items):
        return artifact
    with replacing_directory(artifact.path / MAPPED) as folder:
        (folder / MAPPED).mkdir()
        write_mapped_items(folder, artifact.items)
        for file in (folder / MAPPED).iterdir():
            file.rename(folder / file.name)
        (folder / MAPPED).rmdir()
    files = artifact.manifest.files | {name: digest(artifact.path / name) for name in MEMBERS}
    manifest = msgspec.structs.replace(artifact.manifest, files=files)
    write_manifest(artifact.path, manifest)
    return Artifact(artifact.path, manifest)


def add_variants(artifact: Artifact, variants: dict[str, VariantRecord]) -> Artifact:
    """Records exported files that already stand in the artefact's directory."""
    files = {name: digest(artifact.path / name) for record in variants.values() for name in record.exported}
    manifest = msgspec.structs.replace(
        artifact.manifest,
        files=artifact.manifest.files | files,
        variants=artifact.manifest.variants | variants,
    )
    write_manifest(artifact.path, manifest)
    return Artifact(artifact.path, manifest)
