"""How an ONNX file becomes a session, for all who run one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbserve.core.errors import ArtifactError


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on a fixed number of threads that do not spin while idle.

    Raises ArtifactError when the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error
