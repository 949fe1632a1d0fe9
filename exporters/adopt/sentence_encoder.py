"""What the files of sentence-transformers say of a bi-encoder: how tokens become a vector, and how two are compared.

A directory of sentence-transformers has `modules.json`, the modules through which a text goes; a module with options
has a folder of its own, such as `1_Pooling`. Files of every version are read, those of other layouts are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from rbserve.core.errors import UsageError

POOLING, NORMALIZE = "Pooling", "Normalize"
MODULES = ("Transformer", POOLING, NORMALIZE, "Dropout")
"""Modules of sentence-transformers that an exported graph computes, or that change nothing when texts are scored."""
PACKAGE = "sentence_transformers."
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The pooling modes by their keys of older versions, which give each a key of its own."""
MEAN, FIRST_TOKEN = "mean", "cls"
COSINE, DOT = "cosine", "dot"


class Module(msgspec.Struct, frozen=True):
    """An entry of modules.json."""

    type: str
    path: str = ""

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.type.rpartition(".")[2]


class Similarity(msgspec.Struct, frozen=True):
    """The part of config_sentence_transformers.json that says how texts are prepared and vectors compared."""

    prompts: dict[str, str | None] | None = None
    similarity_fn_name: str | None = None


class Length(msgspec.Struct, frozen=True):
    """The part of sentence_bert_config.json that says after how many tokens a text is cut."""

    max_seq_length: Annotated[int, Meta(ge=1)] | None = None


class VectorComparison(NamedTuple):
    """How a bi-encoder's texts are compared: by the first token's vectors or the mean of all, of length 1 or not.

    `prompts` are the names of texts that sentence-transformers can put before a text.
    """

    first_token: bool
    normalized: bool
    prompts: Sequence[str]

    def __str__(self) -> str:
        pooled = "the first token's" if self.first_token else "the mean of the tokens'"
        score = "cosine" if self.normalized else "dot product"
        return f"It is a bi-encoder: a score is the {score} of two vectors, each {pooled}."


def is_sentence_encoder(folder: Path) -> bool:
    """Whether a directory is a bi-encoder of sentence-transformers: it says how tokens become a vector."""
    return _pooling_file(folder).is_file() or POOLING in {module.name for module in _modules(folder)}


def read_comparison(folder: Path) -> VectorComparison:
    """How the vectors of a directory's model are made and compared; the mean and the cosine where nothing says it.

    Raises UsageError for modules, poolings and similarities that are not exported, and for files of another layout.
    """
    names = _require_known(folder)
    similarity = _read(folder / "config_sentence_transformers.json", Similarity) or Similarity()
    chosen = similarity.similarity_fn_name or COSINE
    if chosen not in (COSINE, DOT):
        raise UsageError(f"{folder} compares vectors by {chosen}; {COSINE} and {DOT} are known")
    prompts = [name for name, text in (similarity.prompts or {}).items() if text]
    return VectorComparison(_reads_first_token(folder), chosen == COSINE or NORMALIZE in names, prompts)


def read_length(folder: Path) -> int | None:
    """The tokens of a text at most, by sentence-transformers; None where it does not say."""
    return (_read(folder / "sentence_bert_config.json", Length) or Length()).max_seq_length


def _modules(folder: Path) -> list[Module]:
    return _read(folder / "modules.json", list[Module]) or []


def _require_known(folder: Path) -> list[str]:
    """The names of the modules; UsageError for one that an exported graph would lack."""
    modules = _modules(folder)
    for module in modules:
        if not module.type.startswith(PACKAGE):
            raise UsageError(f"{folder} has the module {module.type}: code of the model's own is never run")
        if module.name not in MODULES:
            raise UsageError(
                f"{folder} has the module {module.name}, which is not exported",
                f"known: {', '.join(MODULES)}",
            )
    if not modules and any(folder.glob("*_Dense")):
        raise UsageError(f"{folder} has a dense layer behind its pooling, which is not exported")
    return [module.name for module in modules]


def _pooling_file(folder: Path) -> Path:
    places = [module.path for module in _modules(folder) if module.name == POOLING]
    return folder / Path(places[0] if places else "1_Pooling").name / "config.json"


def _reads_first_token(folder: Path) -> bool:
    """Whether a vector is the first token's; else it is the mean. Raises UsageError for other poolings."""
    pooling = _read(_pooling_file(folder), dict[str, bool | int | str | list[str] | None]) or {}
    stated = pooling.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else stated
    if not isinstance(modes, list):
        modes = [mode for key, mode in OLD_MODES.items() if pooling.get(key)] or [MEAN]
    if modes not in ([MEAN], [FIRST_TOKEN]):
        raise UsageError(
            f"{folder} pools by {', '.join(modes) or 'nothing'}; {MEAN} and {FIRST_TOKEN} are known"
        )
    return modes == [FIRST_TOKEN]


Content = TypeVar("Content")


def _read(path: Path, kind: type[Content]) -> Content | None:
    """The content of a JSON file; None where it is not there. Raises UsageError for content of another kind."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind) if path.is_file() else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
