"""The versions of the libraries that decide scores and latencies."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "openvino")


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python, rbserve and the installed ones of the named packages, without importing them."""
    versions = {"python": platform.python_version()}
    for name in ("rbserve", *names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
