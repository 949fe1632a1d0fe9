"""rbserve: train, export, profile and serve every recommender of the RecBench paper.

    import rbserve

    home = rbserve.Home("shop")                    # data sets, artefacts, runs and reports below one folder
    artifact = home.train("gdcn", "ml-100k")
    scorer = rbserve.open_scorer(artifact.path, "torch-fp32")

These names are loaded when they are first used: `import rbserve` alone imports no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rbserve.core.version import __version__

if TYPE_CHECKING:
    from rbserve.client import Client
    from rbserve.core.errors import RbserveError
    from rbserve.pipeline.home import Home, open_ranker, open_scorer

__all__ = ["Client", "Home", "RbserveError", "__version__", "open_ranker", "open_scorer"]

_MODULES = {
    "Client": "rbserve.client",
    "Home": "rbserve.pipeline.home",
    "RbserveError": "rbserve.core.errors",
    "open_ranker": "rbserve.pipeline.home",
    "open_scorer": "rbserve.pipeline.home",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'rbserve' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
