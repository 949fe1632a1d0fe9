"""The variants of a model: in which runtime and precision it can be scored, and all that depends on the variant.

A variant is a row of `VARIANTS`. Its `runtime` names the module that opens it, `rbserve/runtimes/<runtime>.py`. No
other module spells a variant's name or asks which one it has: it reads a field of the row.

Another package adds a runtime without a change here: an entry point of the group `rbserve.runtimes`, named like the
runtime, that names a module with `VARIANTS` (rows like those below), `open`, `unavailable` and `HINT`
(`runtimes/opening.py: Runtime`). It loads the trained weights or the files of an exported variant of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.tasks import CTR, SEQREC

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "rbserve.runtimes"
WEIGHTS = "weights"
NOTHING = "nothing"
UNKNOWN = "unknown"
CPU = "cpu"
FAISS = ("faiss-cpu",)

ModelKind = Literal[
    "recommender",
    "codes",
    "item-language",
    "neighbours",
    "trees",
    "language",
    "endpoint",
    "graph",
    "library",
    "program",
    "callable",
]
"""A model over rows of the item table, a ranking over codes of items, one whose layers are a language model's, one of
rows of neighbours, trees on fields, a language model that reads prompts, a model that answers from elsewhere.

Of models that were made elsewhere and adopted: an ONNX graph, a model of another library that is also converted to
ONNX, a program of torch.export, a Python callable."""


_CONFIG_KINDS: Mapping[str, ModelKind] = {
    "endpoint": "endpoint", "item": "item-language", "seq-item": "item-language", "itemknn": "neighbours",
    "gbdt": "trees", "sid-sasrec": "codes", "sid-sasrec-parallel": "codes",
}  # fmt: skip
UNCHANGED: Mapping[ModelKind, Mapping[str, str]] = {
    "neighbours": {"int8": "it looks rows up and adds them; there are no products to round"},
    "trees": {"int8": "trees compare numbers; there are no products to round"},
}
"""The precisions that would change nothing in models of a kind, and why."""
TRAINED: tuple[ModelKind, ...] = ("recommender", "codes", "item-language", "language")
INDEXED: tuple[ModelKind, ...] = ("recommender", "item-language")
"""The kinds whose ranking is a product of the user's vector with the items' vectors, which an index can search."""
REMEMBERING: tuple[ModelKind, ...] = ("item-language", "language")
"""The kinds of models that can remember what they read of a user's history."""
CONVERTED: tuple[ModelKind, ...] = ("graph", "library", "program")
"""The kinds of adopted models that have an ONNX graph."""
APPROXIMATED: tuple[ModelKind, ...] = ("library", "trees")
"""The kinds whose graph another project makes. It may score single rows otherwise, at the edges of a tree's branches:
that is measured and shown as a warning."""


class Variant(NamedTuple):
    """One way to run a model.

    `loaded_from`: the exported variant whose files it is loaded from (its own name where it is exported itself),
    WEIGHTS for the trained weights (of an adopted model: the files that it came as), NOTHING where no file is loaded.
    `kinds` and `tasks` say which models have it; no tasks are all. `bytes_per_weight` is what a weight takes in memory
    at most, and `copies` how many copies of the weights are in memory at the peak of loading. `tolerance` is how far
    scores on another processor, whose kernels round otherwise, may differ from those that were written down at export.

    `usual`: exported (where it has files) and measured where nobody names variants. `automatic`: may be chosen by
    `--precision auto`. `named_by_precision`: what `--precision <precision>` serves. `paid`: every call costs money.
    `runs_own_code`: opening it runs Python code of the user's, outside the artefact, so that it is only served where
    the user says so. `approximate`: an index over the items' vectors finds the list, and may miss items of it.
    `device` is what it computes on, and `libraries` are the packages whose versions decide its figures, beyond
    `core/libraries.py`.

    `colour` stands on white, `dark_colour` on black; `marker` is one of matplotlib's.
    """

    name: str
    runtime: str
    precision: str
    loaded_from: str
    kinds: tuple[ModelKind, ...] = TRAINED
    tasks: tuple[str, ...] = ()
    bytes_per_weight: float = 4.0
    copies: int = 1
    tolerance: float = 0.03
    usual: bool = False
    automatic: bool = False
    named_by_precision: bool = False
    paid: bool = False
    runs_own_code: bool = False
    approximate: bool = False
    device: str = CPU
    libraries: tuple[str, ...] = ()
    colour: str = "#7a5195"
    dark_colour: str = "#c3a1dc"
    marker: str = "P"

    @property
    def exported(self) -> bool:
        """Whether an export writes its files."""
        return self.loaded_from == self.name

    def fits(self, task: str, kind: ModelKind) -> bool:
        """Whether models of a task and kind have it."""
        return kind in self.kinds and (not self.tasks or task in self.tasks)


# A weight in 4 bits shares a scale of 4 bytes with 31 others, in 8 bits with as many or more. Colours are told apart by
# colour-blind readers (Okabe and Ito), and each variant has a marker of its own as well.
VARIANTS = (
    Variant(
        "torch-fp32", "torch", "fp32", WEIGHTS, (*TRAINED, "neighbours", "program"), usual=True, automatic=True,
        colour="#d55e00", dark_colour="#ff8f4d", marker="o",
    ),
    Variant(
        "native", "native", "fp32", WEIGHTS, ("library", "trees"), tolerance=1e-3, usual=True, automatic=True,
        libraries=("lightgbm", "xgboost", "xgboost-cpu", "catboost", "scikit-learn", "skops"),
        colour="#a6761d", dark_colour="#e6b860", marker="X",
    ),
    Variant(
        "onnx-fp32", "onnx", "fp32", "onnx-fp32", (*TRAINED, "neighbours", "trees", *CONVERTED), tolerance=1e-3,
        usual=True, automatic=True, named_by_precision=True,
        colour="#0072b2", dark_colour="#56b4e9", marker="s",
    ),
    Variant(
        "onnx-int8", "onnx", "int8", "onnx-int8", (*TRAINED, *CONVERTED), bytes_per_weight=1.125,
        usual=True, automatic=True, named_by_precision=True,
        colour="#00805d", dark_colour="#2fcf9f", marker="^",
    ),
    Variant(
        "onnx-int4", "onnx", "int4", "onnx-int4", ("language",), bytes_per_weight=0.625,
        automatic=True, named_by_precision=True,
        colour="#b34e86", dark_colour="#e59fc6", marker="D",
    ),
    Variant(
        "openvino-bf16", "openvino", "bf16", "onnx-fp32", ("item-language", "language"), copies=2,
        automatic=True, named_by_precision=True,
        colour="#8a6d00", dark_colour="#f0e442", marker="v",
    ),
    Variant("torch-bf16", "torch", "bf16", WEIGHTS, ("item-language", "language"), bytes_per_weight=2.0),
    # Asks a language model the paper's way: to compare with, not to serve.
    Variant("torch-recbench", "torch", "recbench", WEIGHTS, ("language",), (CTR.name,)),
    Variant(
        "onnx-fp16", "onnx", "fp16", "onnx-fp16", CONVERTED, bytes_per_weight=2.0,
        automatic=True, named_by_precision=True,
        colour="#6a51a3", dark_colour="#b9a7e6", marker="h",
    ),
    # Indexes over item vectors, for catalogues that are too large to scan (docs/large-catalogues.md).
    Variant(
        "faiss-hnsw", "faiss", "hnsw", "faiss-hnsw", INDEXED, (SEQREC.name,), tolerance=1e-3, approximate=True,
        libraries=FAISS, colour="#555555", dark_colour="#bbbbbb", marker="*",
    ),
    Variant(
        "faiss-ivf", "faiss", "ivf", "faiss-ivf", INDEXED, (SEQREC.name,), tolerance=1e-3, approximate=True,
        libraries=FAISS, colour="#3d6b21", dark_colour="#a8d18d", marker="p",
    ),
    Variant(
        "faiss-ivf-int8", "faiss", "ivf-int8", "faiss-ivf-int8", INDEXED, (SEQREC.name,), tolerance=1e-3,
        approximate=True, libraries=FAISS, colour="#00707a", dark_colour="#6fd3dc", marker="<",
    ),
    Variant(
        "faiss-ivf-pq", "faiss", "ivf-pq", "faiss-ivf-pq", INDEXED, (SEQREC.name,), tolerance=1e-3,
        approximate=True, libraries=FAISS, colour="#7d3c00", dark_colour="#e0a878", marker=">",
    ),
    Variant("endpoint", "endpoint", UNKNOWN, NOTHING, ("endpoint",), bytes_per_weight=0.0, usual=True, paid=True),
    Variant(
        "python", "python", UNKNOWN, NOTHING, ("callable",), bytes_per_weight=0.0, usual=True, runs_own_code=True
    ),
)  # fmt: skip

REFERENCE = "torch-fp32"
"""What every other variant is held against."""
ADOPTED_REFERENCES = ("torch-fp32", "native", "python", "onnx-fp32")
"""Of an adopted model the first of these that it has: what it came as, or, of an ONNX file, its graph."""
HALF_REFERENCE = "torch-bf16"
"""Stands in for the reference where memory is too small for it."""
DEFAULT_SERVED = "onnx-fp32"

EXPORTABLE = tuple(row.name for row in VARIANTS if row.exported)
PRECISIONS = tuple(row.precision for row in VARIANTS if row.exported)
"""What `rbserve export --precision` takes."""
INDEXES = tuple(row.precision for row in VARIANTS if row.exported and row.approximate)
"""What `rbserve export --index` takes."""
USUAL_EXPORTS = tuple(row.name for row in VARIANTS if row.exported and row.usual)
USUAL_PRECISIONS = tuple(row.precision for row in VARIANTS if row.exported and row.usual)
FP32 = tuple(row.name for row in VARIANTS if row.precision == "fp32")
"""The variants in fp32: the accuracy of the first that was measured counts as the model's."""
BY_PRECISION = {row.precision: row.name for row in VARIANTS if row.named_by_precision}
"""What `rbserve serve --precision` serves."""


@cache
def variants() -> dict[str, Variant]:
    """Every variant that some model has, by name; those of other packages last."""
    rows = {row.name: row for row in VARIANTS}
    for runtime, module in plug_ins().items():
        for row in module.VARIANTS:
            if row.name in rows:
                raise UsageError(f"the runtime {runtime} adds the variant {row.name}, which exists already")
            rows[row.name] = row
    return rows


@cache
def plug_ins() -> dict[str, ModuleType]:
    """The runtimes that other packages add, by name."""
    from importlib.metadata import entry_points  # imported here: the help of commands reads this module

    return {entry.name: _loaded(entry) for entry in entry_points(group=GROUP)}


def _loaded(entry: EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UsageError(
            f"the runtime {entry.name} cannot be loaded: {error}", f"pip uninstall {package}, or mend it"
        ) from error
    return module


def find_variant(name: str) -> Variant:
    """The row of a variant. One that the table does not know, from a run file of elsewhere, gets a plain row."""
    if row := variants().get(name):
        return row
    runtime, _, precision = name.partition("-")
    return Variant(name, runtime, precision or UNKNOWN, NOTHING)


def weights_size(variant: str, parameters: float) -> int:
    """Bytes that so many weights take in memory in a variant, at most."""
    row = find_variant(variant)
    return int(row.bytes_per_weight * row.copies * parameters)


def exported_variant(precision: str) -> str:
    """The variant that an export at a precision makes."""
    return EXPORTABLE[PRECISIONS.index(precision)]


def kind_of_model(config_kind: str, reads_prompts: bool) -> ModelKind:
    """What a model of the zoo runs as: what the kind of its config says, else by whether it reads prompts."""
    return _CONFIG_KINDS.get(config_kind, "language" if reads_prompts else "recommender")


def possible_variants(task: str, kind: ModelKind) -> list[str]:
    """Every variant that a model of a kind can be scored with, before there is an artefact of it."""
    return [row.name for row in variants().values() if row.fits(task, kind)]


def exports_of(names: Iterable[str]) -> list[str]:
    """The exported variants that must be there before the named ones can be loaded."""
    loaded_from = dict.fromkeys(find_variant(name).loaded_from for name in names)
    return [name for name in loaded_from if name in EXPORTABLE]


def precisions_of(names: Iterable[str]) -> list[str]:
    """The precisions in which those of the variants can be exported that an export makes."""
    return [row.precision for row in map(find_variant, names) if row.exported]


def device_of(names: Iterable[str]) -> str:
    """What variants compute on; where they differ, all of it."""
    return "+".join(sorted({find_variant(name).device for name in names})) or CPU


def check_variants(names: Iterable[str]) -> None:
    """Raises UsageError for a variant that no model has."""
    for name in names:
        if name not in variants():
            raise unknown_name("variant", name, variants())


def why_no_index(precision: str, task: str, kind: ModelKind) -> str | None:
    """The reason why such models cannot be exported as an index; None where they can, or where it is no index."""
    if precision not in INDEXES or find_variant(exported_variant(precision)).fits(task, kind):
        return None
    return (
        "an index searches a ranking that is a product of the user's vector with item vectors, as those of sasrec, "
        "hstu and seq-item rows"
    )


def export_option(variant: str) -> str:
    """The option of `rbserve export` that writes an exported variant: "--precision int8"."""
    row = find_variant(variant)
    return f"--{'index' if row.approximate else 'precision'} {row.precision}"


def check_indexes(indexes: Iterable[str]) -> None:
    """Raises UsageError for an index that there is not."""
    for index in indexes:
        if index not in INDEXES:
            raise unknown_name("index", index, INDEXES)


def check_precisions(precisions: Iterable[str]) -> None:
    """Raises UsageError for a precision that nothing is exported in."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
