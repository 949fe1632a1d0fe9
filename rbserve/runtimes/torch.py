"""The runtime torch: the trained module in eager mode, in the precision that a variant asks for; adopted programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from rbserve.core.errors import ArtifactError
from rbserve.core.files import digest
from rbserve.core.tasks import TASKS
from rbserve.core.types import Progress, Ranker, Scorer, no_progress
from rbserve.core.variants import REFERENCE, REMEMBERING, Variant, find_variant
from rbserve.data.artifact import BACKBONE, ITEM_STATES, LAYERS, WEIGHTS, Artifact, ArtifactManifest
from rbserve.models.configs import (
    CtrConfig,
    ItemKnnConfig,
    LanguageConfig,
    LayersConfig,
    ModelConfig,
    SasRecConfig,
)
from rbserve.models.prompts import Prompts
from rbserve.runtimes.adopted import AdoptedScorer
from rbserve.runtimes.assembly import Parts, history_scorer, language_scorer, ranker_of
from rbserve.runtimes.contents import artifact_config, artifact_prompts, artifact_states
from rbserve.runtimes.meeting import draw_item_states, write_item_states
from rbserve.runtimes.program import load_program, program_function
from rbserve.runtimes.torch_models import (
    ProtocolScorer,
    TorchBestItems,
    TorchHistoryCall,
    TorchItemScores,
    TorchLanguageCall,
    TorchMeetingCall,
    TorchScorer,
    TorchStepper,
    torch_call,
)

HINT = "pip install 'rbserve[train]', or choose an ONNX variant"
RECBENCH = "recbench"


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Why the artefact's module cannot be run here, if so."""
    needed = ("torch", "safetensors", *(["transformers"] if artifact.kind in REMEMBERING else []))
    missing = (name for name in needed if importlib.util.find_spec(name) is None)
    return next((f"{name} is not installed" for name in missing), None)


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:
    """The scorer or ranker of the trained module, or of an adopted program, and torch's threads set."""
    import torch

    torch.set_num_threads(threads)
    if artifact.is_adopted:
        (name,) = artifact.variant_files(variant.name)
        return AdoptedScorer(program_function(load_program(artifact.file(name))), artifact.signature)
    model = load_model(artifact, variant.name)
    if TASKS[artifact.manifest.task].ranks:
        return torch_ranker(artifact, model)
    if variant.precision == RECBENCH:
        return ProtocolScorer(model, artifact_prompts(artifact))
    return torch_scorer(artifact, model, user_cache)


def torch_ranker(artifact: Artifact, model: Any) -> Ranker:
    """The ranker of a list-wise artefact over its torch module."""
    return ranker_of(
        artifact,
        Parts(
            lambda codes: TorchItemScores(model.folded() if hasattr(model, "folded") else model, codes),
            lambda: TorchStepper(model),
            lambda codes: TorchBestItems(model, codes),
            lambda: TorchLanguageCall(model),
        ),
    )


def torch_scorer(artifact: Artifact, model: Any, user_cache: int = 0) -> Scorer:
    """The scorer of a pair-wise artefact over its torch module."""
    if artifact.is_language_model:
        return language_scorer(artifact, torch_call(model), user_cache)
    if artifact.kind == "item-language":
        return history_scorer(artifact, TorchHistoryCall(model), user_cache)
    return TorchScorer(model)


def load_model(artifact: Artifact, variant: str = REFERENCE) -> Any:
    """The trained torch module of an artefact, in eval mode, in the precision of one of torch's variants."""
    from safetensors import SafetensorError

    from rbserve.models import ctr, itemknn, sasrec

    config, path = artifact_config(artifact), artifact.file(WEIGHTS)
    try:
        weights = _weights(path, find_variant(variant).precision)
        if isinstance(config, LanguageConfig):
            return rebuild_model(artifact, backbone_config(artifact), weights).eval()
        if isinstance(config, CtrConfig):
            return ctr.rebuild(config, weights, artifact.layout, item_layers(artifact, config)).eval()
        if isinstance(config, ItemKnnConfig):
            return itemknn.rebuild(config, weights).eval()
        return sasrec.rebuild(cast(SasRecConfig, config), weights, item_layers(artifact, config)).eval()
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"{path} does not hold the weights of {artifact.name}: {error}") from error


def with_item_states(artifact: Artifact, progress: Progress = no_progress) -> ArtifactManifest:
    """Writes the table of item states into an artefact; returns its manifest with that file.

    Of random weights the states are drawn as well: as many, in seconds.
    """
    path = artifact.path / ITEM_STATES
    if artifact.is_random:
        width, seed = backbone_config(artifact).hidden_size, artifact.manifest.training.seed
        draw_item_states(artifact_prompts(artifact), width, path, seed)
    else:
        write_states(artifact, path, progress=progress)
    files = artifact.manifest.files | {ITEM_STATES: digest(artifact.path / ITEM_STATES)}
    return msgspec.structs.replace(artifact.manifest, files=files)


def write_states(
    artifact: Artifact, path: Path, prompts: Prompts | None = None, progress: Progress = no_progress
) -> None:
    """Writes the states of all items of an artefact to the file `path`, as its torch module computes them in fp32.

    With `prompts`, which have more items behind those of the artefact, only the states of these are computed.
    """
    own, table = artifact_prompts(artifact), artifact_states(artifact) if prompts else None
    early = TorchMeetingCall(load_model(artifact)).early
    write_item_states(early, prompts or own, path, table, 0 if table is None else len(own.items), progress)


def _weights(path: Path, precision: str) -> dict[str, Any]:
    """A file's tensors in a precision; those that have it are mapped, not copied."""
    import torch
    from safetensors.torch import load_file

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }


def backbone_config(artifact: Artifact) -> Any:
    """transformers' config of a language model's artefact."""
    from rbserve.models.drivers import read_config

    return read_config(artifact.file(BACKBONE))


def item_layers(artifact: Artifact, config: ModelConfig) -> Any:
    """The language model's layers of an artefact that reads items as tokens, without their weights, or None."""
    if not isinstance(config, LayersConfig):
        return None
    from rbserve.models.depth import shortened
    from rbserve.models.drivers import read_config
    from rbserve.models.language_layers import layers_of

    return layers_of(shortened(read_config(artifact.file(LAYERS)), config.layers))


def rebuild_model(artifact: Artifact, config: Any, weights: Mapping[str, Any]) -> Any:
    """The torch module of a language model's artefact over a base of `config`, with the given weights."""
    from rbserve.models import lm

    if TASKS[artifact.manifest.task].ranks:
        return lm.rebuild(config, weights)
    pieces = artifact_prompts(artifact).pieces
    return lm.rebuild_click_model(config, weights, pieces.yes, pieces.meet)
