"""The runtime endpoint: a model that answers from elsewhere, over HTTP, and is paid for every call."""

from __future__ import annotations

import importlib.util
import os

from rbserve.core.errors import UsageError
from rbserve.core.files import cache
from rbserve.core.types import Items, Ranker, Scorer
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.models.configs import EndpointConfig
from rbserve.runtimes.contents import artifact_config
from rbserve.runtimes.endpoint_client import BASE_URL
from rbserve.runtimes.endpoint_scorer import CostEstimate, EndpointScorer

HINT = "pip install 'rbserve[api]'"


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Why no endpoint can be asked here, if so."""
    return "httpx is not installed" if importlib.util.find_spec("httpx") is None else None


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:  # noqa: ARG001
    """The scorer that asks the endpoint, on threads of its own."""
    return open_endpoint(artifact)


def open_endpoint(artifact: Artifact) -> EndpointScorer:
    """The scorer of a model behind an endpoint; its answers are kept in the cache directory.

    Raises UsageError where OpenAI is to be asked and there is no key.
    """
    config = artifact_config(artifact)
    assert isinstance(config, EndpointConfig)
    key = os.environ.get(config.key_from, "")
    if not key and config.api_base == BASE_URL:
        raise UsageError(
            f"{artifact.name} asks {config.api_base}, and there is no key in {config.key_from}",
            f"set {config.key_from}, or train it with --api-base URL for another endpoint",
        )
    return EndpointScorer(
        artifact.items.texts, cache() / "endpoint", base_url=config.api_base, model=config.model, key=key,
        concurrency=config.concurrency, top_logprobs=config.top_logprobs,
        max_completion_tokens=config.max_completion_tokens, greedy=config.greedy,
    )  # fmt: skip


def estimate(artifact: Artifact, histories: Ragged, candidates: Items) -> CostEstimate:
    """What asking an endpoint for R (history, candidate) pairs would still take."""
    config = artifact_config(artifact)
    assert isinstance(config, EndpointConfig)
    with open_endpoint(artifact) as scorer:
        return scorer.estimate(
            histories,
            candidates,
            config.usd_per_million_prompt_tokens,
            config.usd_per_million_completion_tokens,
        )
