"""The versions of the libraries that decide scores and latencies: ours, and those of runtimes of other packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from rbserve.core.variants import variants

LIBRARIES = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "openvino")


def library_versions() -> dict[str, str]:
    """Versions of Python, rbserve and the installed ones of LIBRARIES, without importing them.

    Packages that rows of variants name as well follow.
    """
    versions = {"python": platform.python_version()}
    of_runtimes = (library for row in variants().values() for library in row.libraries)
    for name in dict.fromkeys(("rbserve", *LIBRARIES, *of_runtimes)):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
