"""The application of adopted models, asked in this process: requests as JSON, and the scores that belong to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import numpy as np

from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models

Ask = Callable[..., httpx.Response]
Adopted = tuple[Artifact, RequestSet]
INFER = "/v2/models/ranker/infer"


def asker(models: Models, limits: Limits) -> Ask:
    """Sends one request to an application of these models."""
    app = build_app(models, limits)

    def send(method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, **options)

        return asyncio.run(once())

    return send


def sent_features(adopted: Adopted, number: int) -> dict[str, Any]:
    """The named features of a request as JSON has them: null where the table has no number."""
    artifact, requests = adopted
    rows = np.arange(*requests.offsets[number : number + 2])
    named = requests.named_values(artifact.signature.columns, rows, number)
    features: dict[str, Any] = json.loads(msgspec.json.encode(named))
    return features


def scores_in_process(adopted: Adopted, number: int) -> list[float]:
    """The scores of a request without a server."""
    artifact, requests = adopted
    scores: list[float] = (
        open_scorer(artifact, "onnx-fp32").score(requests.request(artifact.signature, number)).tolist()
    )
    return scores


def scores_of(answer: httpx.Response) -> list[float]:
    """The scores of an answer with success, in the order of the candidates."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [candidate["index"] for candidate in body["scores"]] == [*range(len(body["scores"]))]
    return [candidate["score"] for candidate in body["scores"]]


def tensors(adopted: Adopted, number: int, **changed: dict[str, Any]) -> dict[str, Any]:
    """A request of the protocol with the model's own tensors, in JSON; some of its fields changed."""
    artifact, requests = adopted
    datatypes = {"float32": "FP32", "int64": "INT64", "str": "BYTES", "bool": "BOOL"}
    arrays = requests.request(artifact.signature, number)
    inputs = [
        {"name": spec.name, "datatype": datatypes[spec.dtype], "shape": [*arrays[spec.name].shape],
         "data": np.nan_to_num(arrays[spec.name]).tolist() if spec.dtype == "float32" else arrays[spec.name].tolist(),
         **changed.get(spec.name, {})}
        for spec in artifact.signature.inputs
    ]  # fmt: skip
    return {"inputs": inputs}
