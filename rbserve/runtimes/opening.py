"""One way to score, `open_scorer(artifact, variant)`, and one to rank, `open_ranker`, in any runtime and precision.

Accuracy, latency and the server all go through what is returned here, so what is profiled is what is served. A runtime
is a module of this folder, or of another package (`core/variants.py`), and is imported when one of its variants is
opened: ONNX variants need onnxruntime alone, and no torch.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.tasks import TASKS
from rbserve.core.types import Ranker, Scorer
from rbserve.core.variants import Variant, export_option, exports_of, find_variant, plug_ins
from rbserve.data.artifact import Artifact
from rbserve.runtimes.fields import with_fields
from rbserve.runtimes.memory import require_memory


class Runtime(Protocol):
    """What a module that is a runtime has. `HINT` says what to do where a variant is unavailable."""

    HINT: str

    def unavailable(self, artifact: Artifact, variant: Variant) -> str | None:
        """Why an artefact cannot be opened in a variant here (a package, a processor's instructions), if so."""
        ...

    def open(self, artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:
        """A `Scorer` of a pair-wise artefact, a `Ranker` of a list-wise one, computing on `threads` threads.

        A language model's keeps up to `user_cache` bytes of what it read of its last users. Every file is taken through
        `Artifact.file`, which verifies it.
        """
        ...


def open_scorer(artifact: Artifact, variant: str, threads: int = 1, user_cache: int = 0) -> Scorer:
    """A scorer of one variant of an artefact, its files verified, computing on `threads` threads.

    A language model keeps up to `user_cache` bytes of what it read of its last users' prompts; other models have
    nothing to keep. Raises ArtifactError for a damaged or missing file, UsageError for a variant the artefact lacks.
    """
    if TASKS[artifact.manifest.task].ranks:
        raise UsageError(f"{artifact.name} ranks the catalogue; it does not score candidates")
    return with_fields(artifact, cast(Scorer, _open(artifact, variant, threads, user_cache)))


def open_ranker(artifact: Artifact, variant: str, threads: int = 1) -> Ranker:
    """A ranker of one variant of a list-wise artefact, its files verified, computing on `threads` threads.

    Raises ArtifactError for a damaged or missing file, UsageError for a variant the artefact lacks.
    """
    if not TASKS[artifact.manifest.task].ranks:
        raise UsageError(f"{artifact.name} scores candidates; it does not rank the catalogue")
    return cast(Ranker, _open(artifact, variant, threads, user_cache=0))


def unavailable(artifact: Artifact, variant: str) -> str | None:
    """Why an artefact cannot be opened in a variant on this machine, however much memory is free; None where it can."""
    row = find_variant(variant)
    return runtime_of(row).unavailable(artifact, row)


def runtime_of(variant: Variant) -> Runtime:
    """The module that opens a variant."""
    module = plug_ins().get(variant.runtime) or importlib.import_module(f"{__package__}.{variant.runtime}")
    return cast(Runtime, module)


def _open(artifact: Artifact, variant: str, threads: int, user_cache: int) -> Scorer | Ranker:
    _require_variant(artifact, variant)
    row = find_variant(variant)
    runtime = runtime_of(row)
    if reason := runtime.unavailable(artifact, row):
        raise UsageError(f"{variant} cannot be run: {reason}", runtime.HINT)
    require_memory(artifact, variant)
    return runtime.open(artifact, row, threads, user_cache)


def _require_variant(artifact: Artifact, variant: str) -> None:
    if variant in artifact.can_open:
        return
    if variant in artifact.can_have:
        (exported,) = exports_of([variant])
        raise UsageError(
            f"{variant} of {artifact.name} is not exported at {artifact.path}",
            f"rbserve export --model {artifact.path} {export_option(exported)}",
        )
    raise unknown_name(f"variant of {artifact.name}", variant, artifact.can_have)
