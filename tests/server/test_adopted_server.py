"""Real servers of a model that was made elsewhere, asked by clients that exist: Triton's, ours, load and verify."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from adopted_models import adopt_ranker, write_graph
from numpy.typing import NDArray
from serving import Process, serving

from rbserve.client import Client, ServerError
from rbserve.core.errors import UsageError
from rbserve.core.files import digest
from rbserve.data.artifact import Artifact, open_artifact, write_manifest
from rbserve.data.request_set import RequestSet
from rbserve.home.target import resolve
from rbserve.pipeline import serving as pipeline
from rbserve.profilers.client.plan import LoadPlan
from rbserve.profilers.client.verify import verify
from rbserve.runtimes.opening import open_scorer

Adopted = tuple[Artifact, RequestSet]
DATATYPES = {"float32": "FP32", "int64": "INT64", "str": "BYTES", "bool": "BOOL"}
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the artefact and its request set."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def adopted(home: Path) -> Adopted:
    """The artefact and its requests."""
    return adopt_ranker(home)


@pytest.fixture(scope="module")
def server(adopted: Adopted) -> Iterator[Process]:
    """A server of the artefact in a process of its own."""
    with serving(adopted[0]) as started:
        yield started


def scores_of(adopted: Adopted, number: int) -> NDArray[np.float32]:
    """The scores of a request in this process."""
    artifact, requests = adopted
    return open_scorer(artifact, "onnx-fp32").score(requests.request(artifact.signature, number))


@pytest.mark.parametrize("in_binary", [True, False])
@pytest.mark.parametrize("out_binary", [True, False])
def test_tritons_own_client_gets_every_output_of_every_request(
    adopted: Adopted, server: Process, in_binary: bool, out_binary: bool
) -> None:
    artifact, requests = adopted
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_model_ready("ranker")
        names = [output["name"] for output in client.get_model_metadata("ranker")["outputs"]]
        for number in (0, 5, 7):
            arrays = requests.request(artifact.signature, number)
            inputs = []
            for spec in artifact.signature.inputs:
                tensor = triton.InferInput(spec.name, [*arrays[spec.name].shape], DATATYPES[spec.dtype])
                tensor.set_data_from_numpy(arrays[spec.name], binary_data=in_binary)
                inputs.append(tensor)
            wanted = [triton.InferRequestedOutput(name, binary_data=out_binary) for name in names]
            answer = client.infer("ranker", inputs, outputs=wanted)
            np.testing.assert_array_equal(answer.as_numpy("scores"), scores_of(adopted, number))
            titles = [text.decode() if out_binary else text for text in answer.as_numpy("titles").tolist()]
            assert titles == arrays["title"].tolist()
            np.testing.assert_array_equal(answer.as_numpy("is_old"), ~arrays["is_new"])
            assert answer.as_numpy("length").item() == len(arrays["history"])


def test_our_own_client_asks_by_named_features(adopted: Adopted, server: Process) -> None:
    artifact, requests = adopted
    with Client(server.url) as client:
        model = client.model("ranker")
        assert [feature.name for feature in model.features] == artifact.signature.columns
        for number in (0, 5):
            rows = np.arange(*requests.offsets[number : number + 2])
            features = requests.named_values(artifact.signature.columns, rows, number)
            assert client.score_features(features) == scores_of(adopted, number).tolist()
        with pytest.raises(ServerError, match="feature likes is missing"):
            client.score_features({"age": 1.0})
        with pytest.raises(ServerError, match="ranker takes named features"):
            client.score(["1"], ["2"])


def test_verify_finds_the_scores_equal_and_a_server_of_another_model_out(
    adopted: Adopted, server: Process, tmp_path: Path
) -> None:
    found = verify(*adopted, server.url, slate=3, limit=1000.0, rounds=2)
    assert (found.verdict, found.difference, found.compared) == ("OK", 0.0, 12)
    other, requests = adopt_ranker(tmp_path, sign=-1.0)
    assert verify(other, requests, server.url, 3, 1000.0, rounds=2).verdict == "OTHER SCORES"


def test_load_sends_requests_of_the_table(
    adopted: Adopted, server: Process, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    plan = LoadPlan(rate=20, seconds=1.0, warm_up_s=0.2)
    found = pipeline.load(server.url, "ranker", 4, plan)
    assert found.answers == {"200": found.answers["200"]}
    assert not found.failures
    manifest = home / "data/clicks/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace(adopted[1].fingerprint, "0" * 64))
    with pytest.raises(UsageError, match="was not adopted with the requests here"):
        pipeline.load(server.url, "ranker", 4, plan)
    manifest.write_text(text)


def test_it_is_found_by_its_path_and_by_its_name(
    adopted: Adopted, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    for model in (str(adopted[0].path), "ranker"):
        served = pipeline.open_for_serving(resolve(model, None), "onnx-fp32")
        assert served.path.samefile(adopted[0].path)


# ---- New versions and workers ----


@pytest.fixture
def copied(adopted: Adopted, tmp_path: Path) -> Artifact:
    """The artefact in a place of its own."""
    return open_artifact(Path(shutil.copytree(adopted[0].path, tmp_path / "ranker")))


def write_version(artifact: Artifact, change: Callable[[Any], Any]) -> None:
    """Writes the graph with the other sign in the artefact's place, without checks; `change` changes the manifest."""
    write_graph(artifact.path / "onnx/fp32.onnx", sign=-1.0)
    manifest = artifact.manifest
    record = msgspec.structs.replace(manifest.variants["onnx-fp32"], checks=None)
    files = {**manifest.files, "onnx/fp32.onnx": digest(artifact.path / "onnx/fp32.onnx")}
    write_manifest(
        artifact.path,
        change(msgspec.structs.replace(manifest, files=files, variants={"onnx-fp32": record})),
    )


def ask(url: str, adopted: Adopted, number: int = 5) -> httpx.Response:
    """The answer to a request of the table by named features."""
    artifact, requests = adopted
    rows = np.arange(*requests.offsets[number : number + 2])
    features = requests.named_values(artifact.signature.columns, rows, number)
    body = msgspec.json.encode({"features": features})
    return httpx.post(
        f"{url}/v1/score", content=body, headers={"content-type": "application/json"}, timeout=30
    )


def test_two_workers_answer_alike_and_take_up_a_new_version(adopted: Adopted, copied: Artifact) -> None:
    before = scores_of(adopted, 5).tolist()
    with serving(copied, workers=2, admin=True) as server:
        for _ in range(6):
            assert [scored["score"] for scored in ask(server.url, adopted).json()["scores"]] == before
        write_version(copied, lambda manifest: manifest)
        assert httpx.post(f"{server.url}/v1/admin/reload", timeout=30).status_code == 200
        after = scores_of((open_artifact(copied.path), adopted[1]), 5).tolist()
        assert after != before
        for _ in range(6):
            assert [scored["score"] for scored in ask(server.url, adopted).json()["scores"]] == after
        time.sleep(0.1)
        total = 'rbserve_candidates_scored_total{model="ranker"} 72.0'
        assert total in httpx.get(f"{server.url}/metrics", timeout=30).text
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_a_version_that_answers_otherwise_than_when_it_was_adopted_is_refused(copied: Artifact) -> None:
    def with_checks(manifest: Any) -> Any:
        return msgspec.structs.replace(manifest, variants=copied.manifest.variants)

    with serving(copied, admin=True) as server:
        write_version(copied, with_checks)
        told = httpx.post(f"{server.url}/v1/admin/reload", timeout=30)
        assert told.status_code == 409
        assert "answers otherwise than when it was exported" in told.json()["error"]["message"]


def test_a_new_version_may_take_other_tensors(adopted: Adopted, copied: Artifact) -> None:
    def renamed(manifest: Any) -> Any:
        signature = manifest.adopted.signature
        inputs = [
            msgspec.structs.replace(spec, columns=["likes", "shows", "years"]) if spec.name == "features" else spec
            for spec in signature.inputs
        ]  # fmt: skip
        features = {
            ("years" if name == "age" else name): spec for name, spec in manifest.adopted.features.items()
        }
        adopted = msgspec.structs.replace(
            manifest.adopted, signature=msgspec.structs.replace(signature, inputs=inputs), features=features
        )
        return msgspec.structs.replace(manifest, adopted=adopted)

    with serving(copied, admin=True) as server:
        write_version(copied, renamed)
        assert httpx.post(f"{server.url}/v1/admin/reload", timeout=30).status_code == 200
        assert ask(server.url, adopted).json()["error"]["message"] == "unknown feature: age"
        document = httpx.get(f"{server.url}/openapi.json", timeout=30).json()
        assert "years" in document["components"]["schemas"]["Features.ranker"]["properties"]
