"""How an ONNX file becomes a session, for all who run one."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rbserve.core.environment import processor
from rbserve.core.errors import ArtifactError

_profiled: ContextVar[tuple[Path, list[Any]] | None] = ContextVar("profiled", default=None)


def open_session(path: Path, threads: int, eight_bits: bool = False) -> Any:
    """An onnxruntime session on a fixed number of threads that do not spin while idle.

    `eight_bits`: integer weights use all of their 8 bits, so that a processor whose sums of two products overflow at 16
    bits (`saturates`) is to take another kernel, which is exact and slower: on one with VNNI two and a half times.

    Raises ArtifactError when the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if eight_bits and saturates(platform.machine(), processor()[1]):
        options.add_session_config_entry("session.x64quantprecision", "1")
    profiled = _profiled.get()
    if profiled:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiled[0] / path.stem)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error
    if profiled:
        profiled[1].append(session)
    return session


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
