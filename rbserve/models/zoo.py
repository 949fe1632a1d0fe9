"""MODELS: every row of the paper's Tables 3 to 5, and the one of section 3.2. BEYOND: rows that the paper lacks.
BACKBONES: the paper's language models, and small ones to work with.

A row's name is what `--model` takes. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.tasks import CTR, SEQREC, TaskName
from rbserve.core.types import Group, ItemForm, ModelSpec
from rbserve.models.configs import (
    AutoIntConfig,
    AutoIntEmbConfig,
    AutoIntTextConfig,
    BstEmbConfig,
    DcnConfig,
    DcnV2Config,
    DcnV2EmbConfig,
    DcnV2TextConfig,
    DeepFmConfig,
    DinEmbConfig,
    DnnConfig,
    DnnEmbConfig,
    DnnTextConfig,
    EndpointConfig,
    FinalMlpConfig,
    GbdtConfig,
    GdcnConfig,
    GdcnEmbConfig,
    GdcnTextConfig,
    HstuConfig,
    HstuEmbConfig,
    ItemKnnConfig,
    ItemLanguageConfig,
    MaskNetConfig,
    ModelConfig,
    P5Config,
    ParallelSasRecConfig,
    PnnConfig,
    SasRecConfig,
    SasRecTextConfig,
    SeqItemConfig,
    SeqP5Config,
    SeqParallelConfig,
    SeqSidConfig,
    SidLanguageConfig,
    SidSasRecConfig,
    TextLanguageConfig,
    ZeroShotConfig,
)


@dataclass(frozen=True)
class Backbone:
    """A language model: where to get it, its billions of parameters (None where unpublished) and its weights' licence.

    Its true shape is in `shapes.py`. `asset` names what `data/assets.py` fetches it as, without a hub; `paper` says
    whether the paper has it, `elsewhere` where its weights are if no hub has them.
    """

    name: str
    hub_id: str
    architecture: str
    parameters: float | None
    licence: str
    asset: str | None = None
    paper: bool = True
    elsewhere: str | None = None

    @property
    def needs(self) -> str:
        """What a row with it takes."""
        if self.architecture == "api":
            return "an OpenAI-compatible endpoint"
        return self.elsewhere or (f"asset {self.asset}" if self.asset else f"hub weights {self.hub_id}")


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("bert-base", "bert-base-uncased", "bert", 0.110, "Apache-2.0"),
        Backbone("opt-350m", "facebook/opt-350m", "opt", 0.331, "OPT-175B (research)"),
        Backbone("opt-1b", "facebook/opt-1.3b", "opt", 1.316, "OPT-175B (research)"),
        Backbone("llama-1-7b", "huggyllama/llama-7b", "llama", 6.738, "LLaMA (research)"),
        Backbone("llama-2-7b", "meta-llama/Llama-2-7b-hf", "llama", 6.738, "Llama 2 Community"),
        Backbone("llama-3-8b", "meta-llama/Meta-Llama-3-8B", "llama", 8.030, "Llama 3 Community"),
        Backbone("llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B", "llama", 8.030, "Llama 3.1 Community"),
        Backbone("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", "mistral", 7.248, "Apache-2.0"),
        Backbone("glm-4-9b", "THUDM/glm-4-9b-chat-hf", "glm", 9.400, "GLM-4"),
        Backbone("qwen-2-0.5b", "Qwen/Qwen2-0.5B-Instruct", "qwen2", 0.494, "Apache-2.0"),
        Backbone("qwen-2-1.5b", "Qwen/Qwen2-1.5B-Instruct", "qwen2", 1.544, "Apache-2.0"),
        Backbone("qwen-2-7b", "Qwen/Qwen2-7B-Instruct", "qwen2", 7.616, "Apache-2.0"),
        Backbone("ds-qwen-2-7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2", 7.616, "MIT"),
        Backbone("phi-2-3b", "microsoft/phi-2", "phi", 2.780, "MIT"),
        Backbone("gpt-3.5", "gpt-3.5-turbo", "api", None, "terms of the endpoint"),
        Backbone("recgpt-7b", "vinai/RecGPT-7B", "mpt", 7.0, "see its hub page"),
        Backbone(
            "p5-beauty",
            "t5-base",
            "t5",
            0.223,
            "Apache-2.0",
            elsewhere="the OpenP5 checkpoint of t5-base for Beauty",
        ),
        Backbone(
            "minilm-l6",
            "sentence-transformers/all-MiniLM-L6-v2",
            "bert",
            0.023,
            "Apache-2.0",
            asset="minilm-l6",
            paper=False,
        ),
        Backbone(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "llama",
            0.135,
            "Apache-2.0",
            asset="smollm2-135m",
            paper=False,
        ),
        Backbone(
            "mpnet-base", "sentence-transformers/all-mpnet-base-v2", "mpnet", 0.109, "Apache-2.0", paper=False
        ),
    )
}


class _GroupFacts(NamedTuple):
    task: TaskName
    item_form: ItemForm
    needs: tuple[str, ...] = ()


_GROUPS: dict[Group, _GroupFacts] = {
    "A": _GroupFacts(CTR.name, "id"),
    "B": _GroupFacts(CTR.name, "text", ("item texts",)),
    "C": _GroupFacts(
        CTR.name, "embedding", ("item texts", "a frozen language model: minilm-l6, or --set encoder=")
    ),
    "D": _GroupFacts(CTR.name, "id"),
    "E": _GroupFacts(CTR.name, "text", ("item texts",)),
    "F": _GroupFacts(CTR.name, "semantic_id", ("semantic identifiers",)),
    "G": _GroupFacts(SEQREC.name, "id"),
    "H": _GroupFacts(SEQREC.name, "semantic_id", ("semantic identifiers",)),
    "I": _GroupFacts(SEQREC.name, "id"),
    "J": _GroupFacts(SEQREC.name, "semantic_id", ("semantic identifiers",)),
}

BEYOND_GROUP: Group = "X"
"""The group of the rows that the paper lacks, and of models that were made elsewhere."""


_BEYOND_FACTS = {
    "item": _GROUPS["C"], "seq-item": _GROUPS["C"]._replace(task=SEQREC.name), "seq-sid-parallel": _GROUPS["J"],
}  # fmt: skip
"""Of the recipes beyond the paper, by name."""


def _row(
    group: Group,
    name: str,
    paper_name: str | None,
    recipe: str,
    backbone: str | None = None,
    *,
    config: ModelConfig,
    training: Mapping[str, Any] | None = None,
    weights_of: str | None = None,
) -> ModelSpec:
    facts = _BEYOND_FACTS[recipe] if group == BEYOND_GROUP else _GROUPS[group]
    needs = facts.needs
    if backbone is not None:
        needs = (BACKBONES[backbone].needs, *needs)
    return ModelSpec(
        name=name,
        group=group,
        task=facts.task,
        item_form=facts.item_form,
        paper_name=paper_name,
        recipe=recipe,
        config=config,
        backbone=backbone,
        needs=needs,
        training=training or {},
        weights_of=weights_of,
    )


def _beyond(
    name: str,
    task: TaskName,
    item_form: ItemForm,
    *,
    config: ModelConfig,
    training: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """A row that the paper lacks; its recipe is its name."""
    needs = next((facts.needs for facts in _GROUPS.values() if facts.item_form == item_form), ())
    return ModelSpec(
        name, BEYOND_GROUP, task, item_form, None, name, config, needs=needs, training=training or {}
    )


# Layers -> width and heads. The paper says that 12 layers are "the same network architecture as BERT_base"; its
# authors ran 3 layers at width 64 and 24 at 2,048; of 6 nothing is known, and 256 lies between its neighbours.
_SIZES: dict[str, dict[str, Any]] = {
    "3l": {"layers": 3, "dim": 64, "heads": 8},
    "6l": {"layers": 6, "dim": 256, "heads": 8},
    "12l": {"layers": 12, "dim": 768, "heads": 12},
    "24l": {"layers": 24, "dim": 2048, "heads": 16},
}
_SEQUENTIAL_TRAINING: dict[str, dict[str, Any]] = {
    "3l": {"batch": 128, "micro_batch": 128},
    "6l": {"batch": 128, "micro_batch": 128, "lr": 5e-4},
    "12l": {"batch": 128, "micro_batch": 128, "lr": 2e-4, "precision": "bf16"},
    "24l": {"batch": 128, "micro_batch": 32, "lr": 1e-4, "precision": "bf16"},
}


def _sasrec(size: str) -> ModelSpec:
    config, training = SasRecConfig(**_SIZES[size]), _SEQUENTIAL_TRAINING[size]
    return _row("G", f"sasrec-{size}", f"SASRec_{size.upper()}", "sasrec", config=config, training=training)


def _sid_sasrec(size: str) -> ModelSpec:
    config, training = SidSasRecConfig(**_SIZES[size], decoding="free"), _SEQUENTIAL_TRAINING[size]
    name, paper_name = f"sid-sasrec-{size}", f"SID-SASRec_{size.upper()}"
    return _row("H", name, paper_name, "sid-sasrec", config=config, training=training)


def _sid_sasrec_cbs(size: str) -> ModelSpec:
    """The row that decodes the weights of `_sid_sasrec` by conditional beam search (section 3.2)."""
    free = _sid_sasrec(size)
    return replace(
        free, name=f"{free.name}-cbs", paper_name=f"{free.paper_name}-CBS", recipe="sid-sasrec-cbs",
        config=replace(free.config, decoding="cbs"), weights_of=free.name,
    )  # fmt: skip


# Section 4.3: language models are trained by batches of 64 rows (16 users) at 1e-4, and wait for two epochs.
_LANGUAGE_TRAINING = {"batch": 16, "micro_batch": 4, "lr": 1e-4, "patience": 2}
_NEXT_ITEM_TRAINING = {"batch": 64, "micro_batch": 16, "lr": 1e-4, "patience": 2}


class _Recipe(NamedTuple):
    """A way to use a language model, the name of whose row is filled into `names`.

    `weights_of` names the row whose weights it decodes in another way.
    """

    group: Group
    config: Callable[..., ModelConfig]
    training: Mapping[str, Any]
    names: str
    weights_of: str | None = None


# Of a row a user's history with all of its candidates; the language model's layers learn at a share of the rate.
_ITEM_TRAINING = {
    "batch": 64, "micro_batch": 64, "lr": 1e-3, "epochs": 3, "patience": 3, "schedule": "cosine",
    "precision": "auto",
}  # fmt: skip

_SEQ_ITEM_TRAINING = {**_ITEM_TRAINING, "batch": 128, "micro_batch": 128, "epochs": 5, "patience": 5}

_RECIPES: dict[str, _Recipe] = {
    "zeroshot": _Recipe("E", ZeroShotConfig, {}, "zeroshot-{}"),
    "text": _Recipe("E", TextLanguageConfig, _LANGUAGE_TRAINING, "text-{}"),
    "p5": _Recipe("D", P5Config, _LANGUAGE_TRAINING, "p5-{}"),
    "sid": _Recipe("F", SidLanguageConfig, _LANGUAGE_TRAINING, "sid-{}"),
    "seq-p5": _Recipe("I", SeqP5Config, _NEXT_ITEM_TRAINING, "seq-p5-{}"),
    "seq-sid": _Recipe("J", SeqSidConfig, _NEXT_ITEM_TRAINING, "seq-sid-{}"),
    "seq-sid-cbs": _Recipe(
        "J", partial(SeqSidConfig, decoding="cbs"), _NEXT_ITEM_TRAINING, "seq-sid-{}-cbs", "seq-sid-{}"
    ),
    "item": _Recipe(BEYOND_GROUP, ItemLanguageConfig, _ITEM_TRAINING, "item-{}"),
    "seq-item": _Recipe(BEYOND_GROUP, SeqItemConfig, _SEQ_ITEM_TRAINING, "seq-item-{}"),
    "seq-sid-parallel": _Recipe(BEYOND_GROUP, SeqParallelConfig, _NEXT_ITEM_TRAINING, "seq-sid-{}-parallel"),
}
_OF_ITEM_TOKENS = ("item", "seq-item")
"""The recipes that read items as tokens."""
_UNREADABLE = ("api", "t5")
"""The architectures of language models that do not."""


def _language(recipe_name: str, backbone: str, paper_name: str | None) -> ModelSpec:
    """A recipe with a backbone."""
    recipe = _RECIPES[recipe_name]
    return _row(
        recipe.group, recipe.names.format(backbone), paper_name, recipe_name, backbone,
        config=recipe.config(backbone=backbone), training=recipe.training,
        weights_of=recipe.weights_of and recipe.weights_of.format(backbone),
    )  # fmt: skip


MODELS: tuple[ModelSpec, ...] = (
    _row("A", "dnn", "DNN", "ctr", config=DnnConfig()),
    _row("A", "pnn", "PNN", "ctr", config=PnnConfig()),
    _row("A", "deepfm", "DeepFM", "ctr", config=DeepFmConfig()),
    _row("A", "dcn", "DCN", "ctr", config=DcnConfig()),
    _row("A", "dcnv2", "DCNv2", "ctr", config=DcnV2Config()),
    _row("A", "masknet", "MaskNet", "ctr", config=MaskNetConfig()),
    _row("A", "finalmlp", "FinalMLP", "ctr", config=FinalMlpConfig()),
    _row("A", "autoint", "AutoInt", "ctr", config=AutoIntConfig()),
    _row("A", "gdcn", "GDCN", "ctr", config=GdcnConfig()),
    _row("B", "dnn-text", "DNN_text", "ctr-text", config=DnnTextConfig()),
    _row("B", "dcnv2-text", "DCNv2_text", "ctr-text", config=DcnV2TextConfig()),
    _row("B", "autoint-text", "AutoInt_text", "ctr-text", config=AutoIntTextConfig()),
    _row("B", "gdcn-text", "GDCN_text", "ctr-text", config=GdcnTextConfig()),
    _row("C", "dnn-emb", "DNN_emb", "ctr-emb", config=DnnEmbConfig()),
    _row("C", "dcnv2-emb", "DCNv2_emb", "ctr-emb", config=DcnV2EmbConfig()),
    _row("C", "autoint-emb", "AutoInt_emb", "ctr-emb", config=AutoIntEmbConfig()),
    _row("C", "gdcn-emb", "GDCN_emb", "ctr-emb", config=GdcnEmbConfig()),
    _language("p5", "bert-base", "P5-BERT_base"),
    _language("p5", "opt-350m", "P5-OPT_base (350M)"),
    _language("p5", "opt-1b", "P5-OPT_large (1B)"),
    _language("p5", "llama-3-8b", "P5-Llama-3_7B"),
    _language("zeroshot", "bert-base", "BERT_base"),
    _language("zeroshot", "opt-350m", "OPT_350M"),
    _language("zeroshot", "opt-1b", "OPT_1B"),
    _language("zeroshot", "llama-1-7b", "Llama-1_7B"),
    _language("zeroshot", "llama-2-7b", "Llama-2_7B"),
    _language("zeroshot", "llama-3-8b", "Llama-3_8B"),
    _language("zeroshot", "llama-3.1-8b", "Llama-3.1_8B"),
    _language("zeroshot", "mistral-7b", "Mistral_7B"),
    _language("zeroshot", "glm-4-9b", "GLM-4_9B"),
    _language("zeroshot", "qwen-2-0.5b", "Qwen-2_0.5B"),
    _language("zeroshot", "qwen-2-1.5b", "Qwen-2_1.5B"),
    _language("zeroshot", "qwen-2-7b", "Qwen-2_7B"),
    _language("zeroshot", "ds-qwen-2-7b", "DS-Qwen-2_7B"),
    _language("zeroshot", "phi-2-3b", "Phi-2_3B"),
    _row("E", "zeroshot-gpt-3.5", "GPT-3.5", "zeroshot", "gpt-3.5", config=EndpointConfig()),
    _language("zeroshot", "recgpt-7b", "RecGPT_7B"),
    _language("zeroshot", "p5-beauty", "P5_Beauty"),
    _language("text", "bert-base", "BERT_base"),
    _language("text", "opt-1b", "OPT_1B"),
    _language("text", "llama-3-8b", "Llama-3_7B"),
    _language("text", "mistral-7b", "Mistral-2_7B"),
    _language("sid", "bert-base", "SID-BERT_base"),
    _language("sid", "opt-350m", "SID-OPT_base (350M)"),
    _sasrec("3l"),
    _sasrec("6l"),
    _sasrec("12l"),
    _sasrec("24l"),
    _sid_sasrec("3l"),
    _sid_sasrec_cbs("3l"),
    _sid_sasrec("6l"),
    _sid_sasrec_cbs("6l"),
    _sid_sasrec("12l"),
    _sid_sasrec_cbs("12l"),
    _language("seq-p5", "bert-base", "BERT_base"),
    _language("seq-p5", "qwen-2-0.5b", "QWen-2_0.5B"),
    _language("seq-p5", "qwen-2-1.5b", "QWen-2_1.5B"),
    _language("seq-p5", "llama-3-8b", "Llama-3_7B"),
    _language("seq-p5", "opt-1b", "P5-OPT_1B"),
    _language("seq-sid", "bert-base", "SID-BERT_base"),
    _language("seq-sid-cbs", "bert-base", "SID-BERT_base-CBS"),
    _language("seq-sid", "llama-3-8b", "SID-Llama-3_7B"),
    _language("seq-sid-cbs", "llama-3-8b", "SID-Llama-3_7B-CBS"),
)


# Chosen on the validation users of MicroLens: a smaller network than the paper's, which learns counts by heart.
_WITH_FIELDS: dict[str, Any] = {
    "fields": ("all",), "vectors": "tuned", "dim": 128, "hidden": (512, 256), "dropout": 0.5,
}  # fmt: skip
_FIELDS_TRAINING = {"batch": 1024, "micro_batch": 1024, "lr": 3e-4}
_TEXTS_TRAINING = {"batch": 128, "micro_batch": 128, "lr": 2e-3, "epochs": 7, "schedule": "cosine"}
# Chosen for bst-emb on MicroLens' validation users. A training row is a user's history with all of its candidates.
_HISTORY_TRAINING = {
    "batch": 64, "micro_batch": 64, "lr": 1e-3, "epochs": 3, "patience": 3, "schedule": "cosine",
}  # fmt: skip

BEYOND: tuple[ModelSpec, ...] = (
    _beyond("gbdt", CTR.name, "features", config=GbdtConfig()),
    _beyond(
        "dnn-emb-fields",
        CTR.name,
        "embedding",
        config=DnnEmbConfig(**_WITH_FIELDS),
        training=_FIELDS_TRAINING,
    ),
    _beyond(
        "gdcn-emb-fields",
        CTR.name,
        "embedding",
        config=GdcnEmbConfig(**_WITH_FIELDS),
        training=_FIELDS_TRAINING,
    ),
    _beyond("din-emb", CTR.name, "embedding", config=DinEmbConfig(), training=_HISTORY_TRAINING),
    _beyond("bst-emb", CTR.name, "embedding", config=BstEmbConfig(), training=_HISTORY_TRAINING),
    _beyond("hstu-emb", CTR.name, "embedding", config=HstuEmbConfig(), training=_HISTORY_TRAINING),
    _beyond("itemknn", SEQREC.name, "id", config=ItemKnnConfig()),
    _beyond(
        "sasrec-2l-emb",
        SEQREC.name,
        "embedding",
        config=SasRecTextConfig(),
        training=_TEXTS_TRAINING,
    ),
    _beyond(
        "hstu",
        SEQREC.name,
        "embedding",
        config=HstuConfig(),
        training=_TEXTS_TRAINING,
    ),
    _beyond(
        "sid-sasrec-3l-parallel",
        SEQREC.name,
        "semantic_id",
        config=ParallelSasRecConfig(**_SIZES["3l"]),
        training=_SEQUENTIAL_TRAINING["3l"],
    ),
    _language("seq-sid-parallel", "minilm-l6", None),
    _language("item", "smollm2-135m", None),
    _language("seq-item", "smollm2-135m", None),
)
"""The rows that the paper lacks, group X: found by name or as `X`, and no part of `all`, which is the paper."""

# The recipes with language models that the paper does not have: no rows of its tables.
_OTHER_BACKBONES: tuple[ModelSpec, ...] = tuple(
    _language(recipe, backbone.name, None if used.group == BEYOND_GROUP else f"{recipe} {backbone.name}")
    for recipe, used in _RECIPES.items()
    for backbone in BACKBONES.values()
    if (backbone.architecture not in _UNREADABLE if recipe in _OF_ITEM_TOKENS else not backbone.paper)
    and (recipe, backbone.name) not in {(spec.recipe, spec.backbone) for spec in BEYOND}
)


OtherNames = Callable[[], Iterable[str]]
"""Names of models that are no rows, called for a hint alone."""

_EVERY = (*MODELS, *BEYOND, *_OTHER_BACKBONES)


def with_backbone(recipe: str, backbone: str) -> ModelSpec:
    """A recipe with any backbone: a name of BACKBONES, a hub id or a directory. UsageError for an unknown recipe."""
    if recipe not in _RECIPES:
        raise unknown_name("recipe", recipe, _RECIPES)
    for spec in _EVERY:
        if (spec.recipe, spec.backbone) == (recipe, backbone):
            return spec
    used = _RECIPES[recipe]
    name = re.sub(r"[^a-z0-9.]+", "-", PurePath(backbone).name.lower()).strip("-") or "backbone"
    return replace(
        _language(recipe, "smollm2-135m", backbone),
        name=used.names.format(name), config=used.config(backbone=backbone), backbone=None,
        needs=(f"backbone {backbone}",), weights_of=used.weights_of and used.weights_of.format(name),
    )  # fmt: skip


def find_model(name: str, others: OtherNames = tuple) -> ModelSpec:
    """The row called `name`. Raises UsageError, with the nearest name of a row or of `others()` as its hint."""
    for spec in _EVERY:
        if spec.name == name:
            return spec
    raise unknown_name("model", name, [*(spec.name for spec in _EVERY), *others()])


def models(group: Group | None = None) -> tuple[ModelSpec, ...]:
    """Every row of the paper, or those of one group, in table order."""
    return tuple(spec for spec in (*MODELS, *BEYOND) if spec.group == group) if group else MODELS


def select_models(text: str, others: OtherNames = tuple) -> list[ModelSpec]:
    """The rows named by "all", "A", "A,C", "A-H" or "dnn,gdcn,B": in table order, each once.

    "X" selects the rows beyond the paper, which "all" leaves out. A recipe with a backbone that the paper does not have
    is named on its own; it belongs to no group.

    Raises UsageError for a part that is no group, range of groups or model, with the nearest name, one of `others()`
    among them, as its hint; and for an empty selection.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError("no model is selected", 'name models or groups: "all", "A,C", "A-H" or "dnn,gdcn"')
    chosen = {name for part in parts for name in _names(part, others)}
    return [spec for spec in _EVERY if spec.name in chosen]


def is_group(part: str) -> bool:
    """Whether a part of a selection stands for groups: "all", "A", "A-H" or "X"."""
    return bool(_groups(part))


def _names(part: str, others: OtherNames) -> list[str]:
    """The names of the rows one part of a selection stands for."""
    groups = _groups(part)
    named = [spec.name for spec in (*MODELS, *BEYOND) if spec.group in groups]
    named += [spec.name for spec in _EVERY if spec.name == part]
    if not named:
        known = ["all", *_GROUPS, BEYOND_GROUP, *(spec.name for spec in _EVERY), *others()]
        raise unknown_name("model or group", part, known)
    return named


def _groups(part: str) -> str:
    """The letters of the groups that "all", "A", "A-C" or "X" stands for; none for any other text."""
    letters = "".join(_GROUPS)
    if part in ("all", BEYOND_GROUP):
        return letters if part == "all" else BEYOND_GROUP
    first, dash, last = part.partition("-")
    last = last if dash else first
    if first not in _GROUPS or last not in _GROUPS:
        return ""
    return letters[letters.index(first) : letters.index(last) + 1]
