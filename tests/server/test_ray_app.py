"""The Ray Serve application: replicas on a local cluster, and a rolling update under load."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from rbserve.cluster import connected
from rbserve.core.errors import UsageError
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact
from rbserve.runtimes.opening import open_scorer
from rbserve.server.ray_app import application

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
ray_serve = pytest.mark.filterwarnings("ignore")  # Ray's own, of threads and sockets that it leaves


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "onnx-fp32"}, "model is missing"),
        ({"model": "m", "variants": "onnx-fp32"}, "variants"),
        ({"model": "m", "variant": "onnx-fp31"}, "onnx-fp31"),
        ({"model": "m", "threads": 0}, "threads is 0"),
        ({"model": "m", "limits": {"max_waitin": 3}}, "max_waitin"),
    ],
)
@ray_serve
def test_wrong_arguments_are_refused_before_anything_is_deployed(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        application(arguments)


@ray_serve
def test_the_example_config_is_one_of_ray_serve_and_its_arguments_are_known() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text())
    (deployed,) = ServeDeploySchema.parse_obj(config).applications
    assert deployed.import_path == "rbserve.server.ray_app:application"
    built = application(deployed.args)
    assert built._bound_deployment.name == deployed.deployments[0].name


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of Ray Serve's proxy on a cluster of this machine."""
    with connected("local", cpus=4):
        from ray import serve

        serve.start(http_options={"host": "127.0.0.1", "port": 8765})
        try:
            yield "http://127.0.0.1:8765"
        finally:
            serve.shutdown()


def deploy(artifact: Artifact, path: Path) -> None:
    """Two replicas of the artefact's copy at a path; returns when all of them are of it."""
    from ray import serve

    if not path.exists():
        shutil.copytree(artifact.path, path)
    built = application({"model": str(path), "variant": "onnx-fp32"})
    built._bound_deployment = built._bound_deployment.options(num_replicas=2)
    serve.run(built, name="toy", route_prefix="/")


@pytest.mark.slow
@pytest.mark.alone
@ray_serve
def test_two_replicas_answer_as_the_model_and_a_rolling_update_loses_no_request(
    artifact: Artifact, url: str, tmp_path: Path
) -> None:
    from ray import serve

    deploy(artifact, tmp_path / "first")
    body = {"history": ["i1", "i2"], "candidates": ["i3", "i4", "i5"]}
    scores = [scored["score"] for scored in httpx.post(f"{url}/v1/score", json=body).json()["scores"]]
    rows = slate_request(artifact.items.lookup(["i1", "i2"]), artifact.items.lookup(["i3", "i4", "i5"]))
    np.testing.assert_allclose(scores, open_scorer(artifact, "onnx-fp32").score(rows), atol=1e-6)
    running = serve.status().applications["toy"].deployments["rbserve"]
    assert running.replica_states == {"RUNNING": 2}

    statuses: Counter[int | str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                try:
                    statuses[client.post(f"{url}/v1/score", json=body).status_code] += 1
                except httpx.HTTPError as error:
                    statuses[repr(error)] += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    before = replicas()
    deploy(artifact, tmp_path / "second")
    after = replicas()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(before) == len(after) == 2
    assert not before & after, "every replica was replaced"
    assert set(statuses) == {200}, statuses
    assert statuses[200] > 100


def replicas() -> set[str]:
    """The names of the actors that are replicas now: a replica has one of its own."""
    import ray

    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return {name for name in names if "replica" in name.lower()}
