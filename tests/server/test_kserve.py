"""What KServe needs of a container: the port of its example, the probes, and the Open Inference Protocol."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import yaml
from serving import serving

from rbserve.data.artifact import Artifact

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"


def container() -> dict[str, Any]:
    """The container of the example's predictor."""
    service = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["kind"] == "InferenceService"
    (only,) = service["spec"]["predictor"]["containers"]
    assert only["name"] == "kserve-container", "KServe looks for this name"
    return dict(only)


def test_the_example_asks_the_port_that_the_image_listens_on() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (port,) = container()["ports"]
    assert port["name"] == "http1"
    listens = re.search(r'"--port", "(\d+)"', dockerfile)
    assert port["containerPort"] == (int(listens[1]) if listens else 8000)
    assert '"0.0.0.0"' in dockerfile, "probes come from outside the container"


def test_a_server_meets_the_protocol_that_kserve_speaks(artifact: Artifact) -> None:
    probes = [probe["httpGet"]["path"] for key, probe in container().items() if key.endswith("Probe")]
    assert probes == ["/v2/health/ready", "/v2/health/live"]
    with serving(artifact) as server, httpx.Client(base_url=server.url) as client:
        ready, live = (client.get(path) for path in probes)
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert (live.status_code, live.json()["live"]) == (200, True)
        assert {"name", "version"} <= client.get("/v2").json().keys()
        metadata = client.get("/v2/models/toy").json()
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["history", "candidates"]
        assert client.get("/v2/models/toy/ready").status_code == 200
        tensors = [
            {"name": name, "shape": [len(ids)], "datatype": "BYTES", "data": ids}
            for name, ids in (("history", ["i1", "i2"]), ("candidates", ["i3", "i4"]))
        ]
        answer = client.post("/v2/models/toy/infer", json={"inputs": tensors}).json()
        (scores,) = answer["outputs"]
        body = {"history": ["i1", "i2"], "candidates": ["i3", "i4"]}
        own = client.post("/v1/score", json=body).json()["scores"]
        assert scores["data"] == [scored["score"] for scored in own]
        code, _, _ = server.stop()
        assert code == 0
