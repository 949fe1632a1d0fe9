"""What a runtime reads of an artefact beside its weights: the config, the prompts, the tokeniser."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.data.artifact import ITEM_STATES, TOKENIZER, Artifact
from rbserve.data.columns import open_column
from rbserve.models import prompts
from rbserve.models.configs import ModelConfig, config_from_dict
from rbserve.models.prompts import ItemTokenizer, Prompts, item_limit, open_prompts


def artifact_config(artifact: Artifact) -> ModelConfig:
    """The config of an artefact's model."""
    return config_from_dict(artifact.manifest.config_kind, artifact.manifest.config)


def artifact_prompts(artifact: Artifact) -> Prompts:
    """The prompts of a language model's artefact, its files verified."""
    folder, *_ = (artifact.file(f"{prompts.FOLDER}/{name}").parent for name in prompts.FILES)
    return open_prompts(folder)


def artifact_states(artifact: Artifact) -> NDArray[np.float16] | None:
    """The table of item states float16[rows, d], a memory map; None of a model that has none.

    ArtifactError where the file is damaged or is not of the artefact's items.
    """
    if ITEM_STATES not in artifact.manifest.files:
        return None
    prompts, column = artifact_prompts(artifact), open_column(artifact.file(ITEM_STATES))
    rows = prompts.state_count(len(prompts.items))
    if not rows or len(column) % rows:
        raise ArtifactError(
            f"{artifact.path} has {len(column)} numbers of states for {rows} rows", "train it anew"
        )
    table: NDArray[Any] = column.reshape(rows, -1)
    return np.asarray(table)  # still the file's: a plain array is sliced faster than a memory map


def artifact_tokenizer(artifact: Artifact) -> ItemTokenizer:
    """Makes tokens of the texts of items that a language model's artefact does not have.

    Raises UsageError where the model reads no texts, ArtifactError for a damaged or missing file.
    """
    if not artifact.is_language_model or artifact.manifest.item_form != "text":
        raise UsageError(f"{artifact.name} reads no item texts", "zeroshot- and text- rows do")
    limit = item_limit(artifact_prompts(artifact).pieces.max_tokens)
    return ItemTokenizer(artifact.file(TOKENIZER), limit)
