"""How an ONNX file becomes a session, for all who run one: in onnxruntime, or in OpenVINO where bf16 is wanted."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.machine.environment import processor

BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
SESSION_OPTIONS = "rbserve.session_options"
"""In a graph's metadata "none" where onnxruntime computes it exactly on every processor without being told how."""


class Session(Protocol):
    """A loaded graph, as far as it is used here; safe for threads."""

    def get_inputs(self) -> Sequence[Any]:
        """What goes in: each has a name, and a shape whose unknown sizes are no numbers."""
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
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load(path: Path, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error


def without_bf16() -> str | None:
    """Why no graph can be run in bf16 here, if so."""
    if not BF16_FLAGS & processor()[1]:
        return "this processor has no bf16"
    return "openvino is not installed" if importlib.util.find_spec("openvino") is None else None


def open_bf16_session(path: Path, threads: int) -> Session:
    """The same graph in OpenVINO, its products made in bf16.

    Raises UsageError where that cannot be had (`without_bf16`), ArtifactError when the file cannot be loaded.
    """
    reason = without_bf16()
    if reason:
        raise UsageError(
            f"openvino-bf16 cannot be run: {reason}", "pip install 'rbserve[openvino]', or onnx-fp32"
        )
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # which cores there are is for whoever starts the process to say
    }
    try:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactError(f"openvino cannot load {path}: {str(error).splitlines()[0]}") from error
    if any(one.partial_shape.rank.is_static and not len(one.partial_shape) for one in compiled.outputs):
        raise ArtifactError(
            f"openvino misreads {path}, which an earlier version wrote",
            "rbserve export --precision fp32 writes it anew",
        )
    return OpenVinoSession(compiled)


class OpenVinoSession:
    """A compiled model of OpenVINO as a `Session`."""

    class Input(NamedTuple):
        """What goes in; of an unknown size None."""

        name: str
        shape: list[int | None]

    def __init__(self, compiled: Any) -> None:
        self._request, self._lock = compiled.create_infer_request(), Lock()
        self._names = [one.any_name for one in compiled.outputs]
        self._inputs = [
            self.Input(
                one.any_name, [size.get_length() if size.is_static else None for size in one.partial_shape]
            )
            for one in compiled.inputs
        ]

    def get_inputs(self) -> list[Input]:
        """What goes in."""
        return self._inputs

    def get_overridable_initializers(self) -> list[Input]:
        """Nothing: OpenVINO takes defaults for constants."""
        return []

    def run(self, names: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The named outputs, or all of them in their order; one call at a time."""
        with self._lock:
            found = self._request.infer(arrays, share_inputs=True, share_outputs=True)
            return [np.array(found[name]) for name in names or self._names]


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
