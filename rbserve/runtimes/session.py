"""How an ONNX file becomes a session of onnxruntime, and what a session is, for all who run a graph."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, first_line
from rbserve.machine.environment import processor

PROVIDERS = ["CPUExecutionProvider"]
"""What onnxruntime computes on: the processor, in every variant there is."""
SESSION_OPTIONS = "rbserve.session_options"
"""In a graph's metadata "none" where onnxruntime computes it exactly on every processor without being told how."""


class Session(Protocol):
    """A loaded graph, as far as it is used here; safe for threads."""

    def get_inputs(self) -> Sequence[Any]:
        """What goes in: each has a name, and a shape whose unknown sizes are no numbers."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """What comes out: each has a name."""
        ...

    def get_overridable_initializers(self) -> Sequence[Any]:
        """What may go in, and has a default: each has a name."""
        ...

    def run(self, names: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The named outputs, or all of them in their order."""
        ...


_profiled: ContextVar[tuple[Path, list[Any]] | None] = ContextVar("profiled", default=None)


def open_session(path: Path, threads: int, eight_bits: bool = False) -> Any:
    """An onnxruntime session on a fixed number of threads that do not spin while idle.

    `eight_bits`: unless the graph says that it needs no SESSION_OPTIONS, its weights use all of their 8 bits (language
    models of version 0.1). A processor whose sums of two products overflow at 16 bits (`saturates`) is then to take
    another kernel, which is exact and slower: on one with VNNI two and a half times.

    Raises ArtifactError when the file cannot be loaded.
    """
    options = _options(threads)
    if eight_bits and saturates(platform.machine(), processor()[1]):
        metadata = _load(path, options).get_modelmeta().custom_metadata_map
        if metadata.get(SESSION_OPTIONS) != "none":
            options.add_session_config_entry("session.x64quantprecision", "1")
    profiled = _profiled.get()
    if profiled:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiled[0] / path.stem)
    session = _load(path, options)
    if profiled:
        profiled[1].append(session)
    return session


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # an error is raised; its line in a log would be a second one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(path: Path, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load {path}: {first_line(error)}") from error


def simplify_graph(source: Path, path: Path) -> None:
    """Writes a graph as onnxruntime simplifies it: constants are computed, functions and identities are gone.

    Its operators are still those of ONNX. Weights go into `<path>.data`. Raises ArtifactError when the file cannot be
    loaded.
    """
    import onnxruntime

    options = _options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", f"{path.name}.data"
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
    )
    _load(source, options)


def saturates(machine: str, flags: Collection[str]) -> bool:
    """Whether the usual kernel for 8-bit products adds two of them in 16 bits: on x86, unless it tells of VNNI."""
    return machine in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & {*flags}


@contextmanager
def profiled_sessions(folder: Path) -> Iterator[list[Any]]:
    """The sessions opened inside, which note each node's shapes and times; `end_profiling()` writes them to folder."""
    sessions: list[Any] = []
    token = _profiled.set((folder, sessions))
    try:
        yield sessions
    finally:
        _profiled.reset(token)
