"""Rerankers of transformers as ONNX: cross-encoders, sequence classifiers and bi-encoders, with their tokenizers.

The graph takes tokens. The tokenizer is written as transformers sets it up, cutting and padding included, so that
scoring needs neither transformers nor torch. Weights are read from safetensors, and no code of a model's own is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import AssetError, UsageError, first_line
from rbserve.core.requests import TEXT, Signature
from rbserve.data.request_set import Scope
from rbserve.exporters.adopt.columns import Columns, fill_inputs
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.sentence_encoder import is_sentence_encoder, read_comparison, read_length
from rbserve.exporters.graph import data_file, save
from rbserve.runtimes.reranker import DOCUMENT, QUERY, RERANK_SIGNATURE

if TYPE_CHECKING:
    from onnx import ModelProto

FORMAT = "transformers"
GRAPH = "fp32.onnx"
WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""The files that are fetched of a model on the hub: no pickled weights, no code."""
COLUMN_NAMES: Mapping[str, Sequence[str]] = {
    QUERY: ("query", "question"),
    DOCUMENT: ("document", "passage", "text", "title"),
}
"""Columns that are taken for an input where they are there and nobody says which is."""
SCOPES: Mapping[str, Scope] = {QUERY: "request", DOCUMENT: "candidate"}
OFFSET_POSITIONS = ("camembert", "mpnet", "roberta", "xlm-roberta")
"""Architectures that number the positions of a text's tokens from pad_token_id + 1."""


def convert(source: Path | str, columns: Columns, options: AdoptOptions, folder: Path) -> Converted:
    """The graph and the tokenizer of a reranker, written into `folder`; `source` is a directory or an id of the hub.

    Raises UsageError for a model that is no reranker or cannot be read safely, and where nobody says which columns have
    the texts; AssetError where the hub cannot be reached.
    """
    guessed: list[str] = []
    signature = text_columns(columns, options, guessed)
    model = model_folder(source)
    _require_libraries()
    from rbserve.exporters.adopt import encoders

    config = encoders.load_config(model)
    tokenizer = encoders.load_tokenizer(model, config)
    tensors = encoders.tensors_of(tokenizer, config)
    limit = _most_tokens(model, tokenizer, config)
    if is_sentence_encoder(model) or encoders.task_of(config) != encoders.PAIRS:
        graph = _vectors(model, config, tensors, guessed)
    else:
        graph = _pair_scores(model, config, tensors, guessed)
    path = folder / GRAPH
    save(graph, path, {})
    write_tokenizer(tokenizer, folder / encoders.TOKENIZER, limit)
    guessed.append(f"Texts are cut after {limit} tokens.")
    return Converted(
        kind="graph", format=FORMAT, signature=signature, guessed=guessed, graph=path,
        data=[file for file in [data_file(path)] if file.exists()], files=[folder / encoders.TOKENIZER],
    )  # fmt: skip


def text_columns(columns: Columns, options: AdoptOptions, guessed: list[str]) -> Signature:
    """The signature of a reranker with the columns of its texts: those of `--map`, of usual names, or the only ones.

    Adds a line to `guessed` for each column that nobody named. Raises UsageError where it cannot be told.
    """
    inputs, mapped = RERANK_SIGNATURE.inputs, options.columns_of
    chosen = dict(mapped)
    for spec in inputs:
        taken = {column for listed in chosen.values() for column in listed}
        name = _likely_column(spec.name, {name: columns[name] for name in columns if name not in taken})
        if spec.name not in mapped and name is not None:
            chosen[spec.name] = [name]
            if name != spec.name:
                guessed.append(f"The column {name} fills the input {spec.name} (--map {spec.name}=COLUMN).")
    filled = fill_inputs(inputs, columns, chosen, (), guessed)
    return msgspec.structs.replace(RERANK_SIGNATURE, inputs=filled)


def _likely_column(name: str, columns: Columns) -> str | None:
    """The column of texts that an input is, by its name or because no other has texts of its scope; None in doubt."""
    texts = {column: record for column, record in columns.items() if record.dtype == TEXT}
    named = [column for column in COLUMN_NAMES[name] if column in texts]
    alike = [column for column, record in texts.items() if record.scope == SCOPES[name]]
    return (named or alike)[0] if named or len(alike) == 1 else None


def model_folder(source: Path | str) -> Path:
    """The directory of a model, fetched from the hub where `source` is none. Its weights are safetensors.

    Raises AssetError where the hub has no such model or cannot be reached, UsageError for a directory without config
    or with other weights.
    """
    folder = Path(source) if Path(source).is_dir() else _from_hub(str(source))
    if not (folder / "config.json").is_file():
        raise UsageError(f"{source} has no config.json", "give a directory that save_pretrained wrote")
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{source} is an adapter of another model",
            "model.merge_and_unload().save_pretrained(DIR) joins the two",
        )
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"{source} has no *.safetensors: weights in other formats are not read",
            "model.save_pretrained(DIR) of a recent transformers writes safetensors",
        )
    return folder


def _from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise UsageError(f"{hub_id} is no directory", "for the hub: pip install huggingface-hub") from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*WANTED_FILES]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = first_line(error)
        raise AssetError(
            f"{hub_id} is no directory, and cannot be had from the hub: {reason}",
            "give a directory with config.json, *.safetensors and tokenizer.json",
        ) from None


def _require_libraries() -> None:
    """Raises UsageError where what exports a model is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("optimum", "torch", "transformers") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"adopting a model of the hub needs {', '.join(missing)}", "pip install 'rbserve[train,export]'"
        )


def _pair_scores(folder: Path, config: Any, tensors: Sequence[str], guessed: list[str]) -> ModelProto:
    """The graph of a sequence classifier with one or two labels."""
    from rbserve.exporters.adopt import encoders

    if config.num_labels not in (1, 2):
        raise UsageError(
            f"{folder} tells {config.num_labels} labels apart; a reranker has one, or two of which the second is "
            "relevant"
        )
    model = encoders.load(folder, config, encoders.PAIRS)
    guessed.append(
        "It is a cross-encoder: a score is the "
        + (
            "sigmoid of its logit."
            if config.num_labels == 1
            else f"chance of its label {config.id2label.get(1, 1)}."
        )
    )
    return encoders.trace_scores(model, config.num_labels, tensors)


def _vectors(folder: Path, config: Any, tensors: Sequence[str], guessed: list[str]) -> ModelProto:
    """The graph of an encoder whose vectors are compared."""
    from rbserve.exporters.adopt import encoders

    comparison = read_comparison(folder)
    guessed.append(str(comparison))
    if comparison.prompts:
        guessed.append(f"Its prompts are not put before texts: {', '.join(comparison.prompts)}.")
    model = encoders.load(folder, config, encoders.VECTORISING)
    return encoders.trace_vectors(model, comparison, tensors)


def write_tokenizer(tokenizer: Any, path: Path, limit: int) -> None:
    """Writes a tokenizer of transformers, as it pads texts and cuts them after `limit` tokens."""
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(limit, strategy="longest_first", direction=tokenizer.truncation_side)
    backend.enable_padding(
        direction=tokenizer.padding_side, pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id, pad_token=tokenizer.pad_token,
    )  # fmt: skip
    backend.save(str(path))


def _most_tokens(folder: Path, tokenizer: Any, config: Any) -> int:
    """Tokens of a text at most: of sentence-transformers, of the tokenizer, and as many as have a position.

    Raises UsageError where that leaves no token for each text of a pair.
    """
    positions, stated = config.max_position_embeddings, tokenizer.model_max_length
    if config.model_type in OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    if not isinstance(stated, int | float | None):
        raise UsageError(f"the tokenizer of {folder} has the model_max_length {stated!r}, which is no number")
    most = int(min(filter(None, (read_length(folder), stated, positions))))
    added = tokenizer.num_special_tokens_to_add(pair=True)
    if most < added + 2:
        raise UsageError(
            f"texts of {folder} are cut after {most} tokens, which leaves none for query and document beside the "
            f"{added} that are added",
            "see model_max_length of tokenizer_config.json and max_seq_length of sentence_bert_config.json",
        )
    return most
