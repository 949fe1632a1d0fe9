"""Language models on disk: located by name, identified by a digest of their files.

A model's name is a name of BACKBONES, a hub id, or a directory in the format of transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError

from rbserve.core.errors import AssetError, RbserveError, UsageError
from rbserve.core.files import cache, replacing_directory, sha256
from rbserve.data.assets import fetch
from rbserve.models.shapes import SHAPES
from rbserve.models.zoo import BACKBONES
from rbserve.runtimes.memory import in_gib, parameters

BERT_WORDS = ("bert", "mpnet")  # architectures that read BERT's word pieces
_SAFE_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_WEIGHTS = "*.bin"


def require_findable(name: str) -> None:
    """Raises AssetError or UsageError for a language model that cannot be located; fetches nothing.

    An unknown name is taken for a hub id without a check: only the hub knows them.
    """
    if Path(name).is_dir() or name.startswith((".", "/", "~")):
        locate(name)
    backbone = BACKBONES.get(name)
    if backbone and (backbone.elsewhere or backbone.architecture == "api"):
        locate(name)


def locate(name: str) -> Path:
    """The directory of a language model's files, which are fetched the first time.

    Raises AssetError if they cannot be fetched, UsageError for a model without weights.
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise AssetError(f"{name} holds no language model: it has no config.json", _hint())
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise AssetError(f"there is no directory {name}", _hint())
    backbone = BACKBONES.get(name)
    if backbone and backbone.asset:
        return _converted(fetch(backbone.asset))
    if backbone and backbone.architecture == "api":
        raise UsageError(f"{name} is an API without weights: there is nothing to load", _hint())
    if backbone and backbone.elsewhere:
        raise AssetError(
            f"{name} takes {backbone.needs}, and no hub id is known for it",
            "--set backbone=DIRECTORY, in the format of transformers",
        )
    return _from_hub(backbone.hub_id if backbone else name)


def locate_shape(name: str) -> Path:
    """A directory with a language model's config and a tokeniser but no weights: enough to measure latency.

    A name of SHAPES has a stand-in for its tokeniser, which only comes with the weights: MiniLM's, which is BERT's, or
    SmolLM2's with as many tokens as the model has. Raises AssetError for a hub id, whose shape is unknown.
    """
    if name not in SHAPES:
        return locate(name)
    shape = SHAPES[name]
    target = cache() / "shapes" / name
    if not (target / "config.json").is_file():
        from transformers import AutoConfig

        stand_in = load_tokenizer(
            locate("minilm-l6" if shape["model_type"] in BERT_WORDS else "smollm2-135m")
        )
        with replacing_directory(target) as partial:
            AutoConfig.for_model(**deepcopy(shape)).save_pretrained(
                partial
            )  # version 5 adds to what is nested
            _save_tokenizer(_at_most(stand_in, shape["vocab_size"]), partial)
    return target


def _at_most(tokenizer: Any, words: int) -> Any:
    """A byte-pair tokeniser reduced to its first `words` tokens; unchanged if it has no more."""
    if len(tokenizer) <= words:
        return tokenizer
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    description = json.loads(tokenizer.backend_tokenizer.to_str())
    model = description["model"]
    known = {token: place for token, place in model["vocab"].items() if place < words}
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]}
    base = sum(token not in merged for token in model["vocab"])
    model["vocab"], model["merges"] = known, model["merges"][: words - base]
    wrapped: Callable[..., Any] = PreTrainedTokenizerFast
    return wrapped(tokenizer_object=Tokenizer.from_str(json.dumps(description)))


def precision(folder: Path, tuned: bool) -> torch.dtype:
    """The type to read a directory's weights in: fp32; bf16 if fp32 does not fit into memory and nothing is trained.

    Raises RbserveError if neither fits. Weights that are not in safetensors files are not counted.
    """
    count = sum(parameters(file) for file in folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    for kind in (torch.float32,) if tuned else (torch.float32, torch.bfloat16):
        if count * kind.itemsize <= free:
            return kind
    least, name = (4, "fp32, which training takes") if tuned else (2, "bf16")
    raise RbserveError(
        f"{folder.name} has {in_gib(count * least)} of weights in {name}; {in_gib(free)} of memory are free",
        "a smaller language model, or a machine with more memory; --weights random measures its latency in int4",
    )


def identity(folder: Path) -> str:
    """A digest of an encoder's weights, config and tokeniser, which its vectors depend on."""
    sha = hashlib.sha256()
    for file in sorted(file for pattern in (*_SAFE_FILES, _OTHER_WEIGHTS) for file in folder.glob(pattern)):
        sha.update(f"{file.name} {sha256(file)}\n".encode())
    return sha.hexdigest()


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turns errors of transformers into AssetError; silences its progress bars and warnings about unused weights."""
    from transformers.utils import logging

    notes: Any = logging  # parts of it are without types
    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise AssetError(
            f"cannot load a language model from {folder}: {str(error).splitlines()[0]}", _hint()
        ) from None
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """The fast tokeniser of a directory."""
    from transformers import AutoTokenizer

    load: Callable[..., Any] = AutoTokenizer.from_pretrained
    with loading(folder):
        return load(folder, local_files_only=True)


def _converted(folder: Path) -> Path:
    """The directory, or the one that its GGUF file was converted to; converts it the first time."""
    gguf = next(folder.glob("*.gguf"), None)
    if gguf is None:
        return folder
    target = cache() / "converted" / f"{folder.name}-{sha256(gguf)[:12]}"
    if not (target / "config.json").is_file():
        import transformers

        read_model: Callable[..., Any] = transformers.AutoModelForCausalLM.from_pretrained
        read_tokenizer: Callable[..., Any] = transformers.AutoTokenizer.from_pretrained
        unpacked = getattr(transformers, "GgufConfig", None)  # version 5 would keep the weights packed
        more = {"quantization_config": unpacked(dequantize=True)} if unpacked else {}
        with loading(folder), replacing_directory(target) as partial:
            model = read_model(folder, gguf_file=gguf.name, dtype=torch.float32, **more)
            model.save_pretrained(partial)
            tokenizer = read_tokenizer(folder, gguf_file=gguf.name)
            _begin_texts(tokenizer)
            _save_tokenizer(tokenizer, partial)
    return target


def _begin_texts(tokenizer: Any) -> None:
    """Has every text begin with the token for a beginning; transformers 5 leaves it out of a GGUF's tokeniser."""
    from tokenizers.processors import TemplateProcessing

    start = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[start, "$A"], special_tokens=[(start, tokenizer.bos_token_id)]
    )


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes a tokeniser into a directory so that transformers 4 and 5 read it alike."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.model_max_length,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _from_hub(hub_id: str) -> Path:
    """A snapshot in the hub's cache; with safetensors weights if the model has any."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_SAFE_FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=[_OTHER_WEIGHTS])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AssetError(f"cannot get language model {hub_id}: {reason}", _hint()) from None
    return folder


def _hint() -> str:
    ready = ", ".join(name for name, backbone in BACKBONES.items() if backbone.asset)
    return f"give a directory with config.json, weights and tokeniser, or one that needs no hub: {ready}"
