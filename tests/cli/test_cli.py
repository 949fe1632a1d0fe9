"""The command line: journeys, JSON, and mistakes; servers and what fills a disk, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import httpx
import msgspec
import pytest
from entry_point import rbserve, rbserve_process

from rbserve.client import Client
from rbserve.core.files import digest
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset


@pytest.fixture(scope="module")
def home(trained: Artifact, planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with the planted data set and a trained, exported model, and the real entry point."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(planted.path, home / "data" / "planted")
    shutil.copytree(trained.path, home / "artifacts" / "planted" / "dnn")
    return home


def test_help_names_every_verb_with_an_example(tmp_path: Path) -> None:
    text = rbserve_process("--help", home=tmp_path).stdout
    verbs = ["models", "backbones", "datasets", "prepare", "train", "distill", "export", "profile"]
    verbs += ["check", "report", "recommend", "bench", "doctor", "serve", "load", "verify"]
    for verb in verbs:
        assert verb in text
        shown = " ".join(rbserve(verb, "--help", home=tmp_path).stdout.split())
        assert re.search("Examples?: rbserve", shown), verb


def test_models_lists_all_rows_of_the_paper(tmp_path: Path) -> None:
    rows = json.loads(rbserve("models", "--json", home=tmp_path).stdout)
    of_paper = [row for row in rows if row["group"] != "X"]
    assert len(of_paper) == 63
    assert all(row["paper_name"] for row in of_paper)
    for row in rows:
        assert {"name", "group", "task", "item_form", "runnable", "needs"} <= row.keys()
        assert row["runnable"]
    paper, beyond = rbserve("models", home=tmp_path).stdout.split("Beyond the paper")
    assert "gdcn" in paper
    for row in rows:
        assert row["name"] in (beyond if row["group"] == "X" else paper)


def test_backbones_lists_shape_licence_and_source_of_every_language_model(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(rbserve("backbones", "--json", home=tmp_path).stdout)}
    assert sum(row["paper"] for row in rows.values()) == 17
    assert rows["qwen-2-1.5b"]["licence"] == "Apache-2.0"
    assert rows["qwen-2-1.5b"]["shape"]["hidden_size"] == 1536
    assert rows["minilm-l6"]["needs"] == "asset minilm-l6"
    assert "huggyllama/llama-7b" in rbserve("backbones", home=tmp_path).stdout


def test_a_variant_that_cannot_be_measured_fails_alone_and_the_command_at_its_end(
    home: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(home, tmp_path / "home"))
    artifact = copy / "artifacts" / "planted" / "dnn"
    (artifact / "onnx/int8.onnx").write_bytes(b"no graph")
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"]["onnx/int8.onnx"] = msgspec.to_builtins(digest(artifact / "onnx/int8.onnx"))
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    words = ["profile", "--model", "dnn", "--dataset", "planted", "--variants", "onnx-int8,onnx-fp32"]
    words += ["--processes", "1", "--runs", "5", "--slates", "1", "--no-cost", "--json"]
    done = rbserve(*words, home=copy, check=1)
    document = json.loads(done.stdout)
    assert [one["variant"] for one in document["results"]] == ["onnx-fp32"]
    assert [*document["failed"]] == ["onnx-int8"]
    assert done.stderr.splitlines()[-2].startswith("error: dnn onnx-int8: ")
    assert len([*(copy / "runs").glob("*.json")]) == 1


def test_datasets_lists_sources_and_whether_they_are_prepared(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(rbserve("datasets", "--json", home=tmp_path).stdout)}
    assert rows["ml-100k"]["prepared"] is False
    assert "synthetic" in rows


def test_one_command_makes_everything_that_is_missing(tmp_path: Path) -> None:
    """From nothing to a profile, a report and a second, faster profile of what is there."""
    words = (
        "train",
        "--model",
        "dnn",
        "--dataset",
        "synthetic",
        "--set",
        "hidden=32",
        "--set",
        "dim=8",
        "--epochs",
        "1",
    )
    done = rbserve_process(*words, home=tmp_path)
    assert "data set synthetic is not prepared yet" in done.stderr
    assert done.stdout == ""
    words = ("profile", "--model", "dnn", "--dataset", "synthetic", "--processes", "2", "--runs", "20")
    done = rbserve(*words, "--json", home=tmp_path)
    document = json.loads(done.stdout)
    assert document["model"] == "dnn"
    assert [(one["variant"], one["slate"]) for one in document["results"]] == [
        (variant, slate) for variant in ("torch-fp32", "onnx-fp32", "onnx-int8") for slate in (1, 100)
    ]
    assert all(one["cost"]["flops"] > 0 and one["loaded_rss_mb"] > 0 for one in document["results"])
    assert "exported dnn onnx-fp32" in done.stderr
    again = rbserve(*words, "--variants", "onnx-int8", home=tmp_path)
    assert "exported" not in again.stderr
    assert "onnx-int8" in again.stdout
    assert "GFLOP/s" in again.stdout
    folder = json.loads(rbserve("report", "--name", "mine", "--json", home=tmp_path).stdout)["folder"]
    names = {file.name for file in Path(folder).iterdir()}
    tables, pictures = {"table.md", "table.csv", "paper.csv"}, {"pareto.png", "pareto.svg"}
    assert names == {*tables, *pictures, "figures", "report.html", "report.json"}
    question = ("recommend", "--slo", "p50<1s", "--slate", "1", "--dataset", "synthetic", "--json")
    answer = json.loads(rbserve(*question, home=tmp_path).stdout)
    assert answer["pick"]["model"] == "dnn (dim=8, hidden=32)"  # never taken for the row itself


def test_an_artefact_is_addressed_by_its_path(home: Path) -> None:
    done = rbserve("profile", "--model", "artifacts/planted/dnn", "--variants", "onnx-fp32", "--processes", "1",
                   "--runs", "5", "--slates", "3", "--scope", "end_to_end", "--no-cost", "--json",
                   home=home)  # fmt: skip
    (result,) = json.loads(done.stdout)["results"]
    assert (result["slate"], result["n"]) == (3, 5)
    assert result["cost"] is None
    assert sum(result["stages"].values()) == pytest.approx(1)
    assert {"lookup", "forward"} <= result["stages"].keys()


def test_many_models_give_a_list_and_one_failure_does_not_stop_the_rest(home: Path) -> None:
    broken = home / "artifacts" / "planted" / "pnn"
    shutil.copytree(home / "artifacts" / "planted" / "dnn", broken)
    (broken / "onnx" / "fp32.onnx").write_bytes(b"broken")
    done = rbserve("profile", "--models", "pnn,dnn", "--dataset", "planted", "--variants", "onnx-fp32",
                   "--processes", "1", "--runs", "5", "--json", home=home, check=1)  # fmt: skip
    assert [one["model"] for one in json.loads(done.stdout)] == ["dnn"]
    assert "error: 1 of 2 models failed: pnn" in done.stderr


MISTAKES = [
    (("train", "--model", "dcnv3"), 2, "unknown model: dcnv3", "did you mean dcnv2?"),
    (
        ("train", "--model", "dnn", "--dataset", "ml-100"),
        2,
        "unknown data set: ml-100",
        "did you mean ml-100k?",
    ),
    (
        ("train", "--model", "dnn", "--dataset", "shop"),
        2,
        "unknown data set: shop",
        "rbserve prepare csv --name shop",
    ),
    (("train", "--model", "dnn", "--set", "droput=0.1"), 2, "droput", "did you mean dropout?"),
    (("train", "--model", "dnn", "--set", "dim=wide"), 2, "dim", "dim takes"),
    (("train", "--model", "dnn", "--set", "dim"), 2, "--set takes KEY=VALUE", "dim=32"),
    (
        ("train", "--model", "dnn", "--epochs", "0"),
        2,
        "Invalid value for '--epochs'",
        "--help shows how",
    ),
    (("train", "--model", "dnn", "--epochs", "few"), 2, "--epochs", "--help"),
    (
        ("train", "--model", "dnn", "--precision", "fp8"),
        2,
        "invalid option: --precision='fp8'",
        "takes one of: fp32, bf16",
    ),
    (
        ("train", "--model", "dnn", "--schedule", "step"),
        2,
        "invalid option: --schedule='step'",
        "takes one of: constant, cosine",
    ),
    (
        ("train", "--model", "dnn", "--api-base", "http://localhost:1/v1"),
        2,
        "dnn asks no endpoint, so there is no --api-base for it",
        "zeroshot-gpt-3.5",
    ),
    (("train", "--models", "A", "--api-base", "http://localhost:1/v1"), 2, "--models takes none of", "one"),
    (("train",), 2, "--model", "--model gdcn"),
    (("train", "--models", "A", "--set", "dim=8"), 2, "--models takes none of", "one by one"),
    (("train", "--model", "txt", "--backbone", "minilm-l6"), 2, "unknown recipe: txt", "did you mean text?"),
    (("train", "--model", "text", "--backbone", "./gone"), 1, "there is no directory ./gone", "minilm-l6"),
    (("frobnicate",), 2, "frobnicate", "--help"),
    (("prepare", "movielens"), 2, "unknown data set: movielens", "did you mean microlens?"),
    (("prepare", "ml-100k", "--raw", "nowhere"), 1, "no folder nowhere to look for ml-100k.item", "--raw"),
    (("export", "--model", "./nowhere"), 1, "no artefact at nowhere", "rbserve train"),
    (("profile",), 2, "--model", "--model gdcn"),
    (("profile", "--model", "dnn", "--slates", "one"), 2, "slates must be whole numbers, not one", "1,100"),
    (("profile", "--models", "Z"), 2, "Z", None),
    (("report",), 1, "no runs in", "rbserve profile"),
    (("serve", "--model", "dnnn"), 2, "unknown model: dnnn", "did you mean dnn?"),
    (("serve", "--model", "dnn", "--port", "99999"), 2, "--port", "--help"),
    (
        ("serve", "--model", "dnn", "--log", "request"),
        2,
        "invalid option: --log='request'",
        "takes one of: errors, requests, items",
    ),
    (("serve", "--model", "dnn", "--precision", "int9"), 2, "unknown precision: int9", "did you mean int8?"),
    (
        ("serve", "--model", "dnn", "--precision", "auto", "--variant", "onnx-int8"),
        2,
        "--variant and --precision both say what to serve",
        "one or the other",
    ),
    (
        ("serve", "--model", "dnn", "--tolerance", "0.01"),
        2,
        "--tolerance and --slate are for --precision auto",
        "--precision auto",
    ),
    (
        ("serve", "--model", "dnn", "--precision", "auto", "--tolerance", "2"),
        2,
        "--tolerance must be 0 or more and below 1, not 2",
        "--tolerance 0.002",
    ),
]


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"), MISTAKES, ids=[" ".join(one[0]) for one in MISTAKES]
)
def test_a_mistake_is_one_line_and_a_hint(
    words: tuple[str, ...], code: int, message: str, hint: str | None, tmp_path: Path
) -> None:
    done = rbserve(*words, home=tmp_path, check=code)
    lines = done.stderr.strip().splitlines()
    assert done.stdout == ""
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    if hint is not None:
        assert lines[-1].startswith("hint: ")
        assert hint in lines[-1]
    assert not (tmp_path / "artifacts").exists()


def test_an_artefact_of_other_data_is_refused(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "artifacts/planted/dnn", tmp_path / "artifacts/synthetic/dnn")
    rbserve("prepare", "synthetic", home=tmp_path)
    done = rbserve("profile", "--model", "dnn", "--dataset", "synthetic", home=tmp_path, check=2)
    assert "was made from data" in done.stderr


def test_a_full_disk_is_one_line(home: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rbserve", "models", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"RBSERVE_HOME": str(home)},
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_while_training_is_one_line_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "data", tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-m", "rbserve", "train", "--model", "dnn", "--dataset", "planted", "--epochs", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"RBSERVE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "model.safetensors" in error
    assert not [file for file in (tmp_path / "artifacts").rglob("*") if file.is_file()]


def test_an_endpoint_is_named_by_its_address(home: Path) -> None:
    """What --set api_base= does, under a name of its own."""
    address = "http://localhost:1/v1"
    for words in (("--api-base", address), ("--set", f"api_base={address}")):
        done = rbserve(
            "train", "--model", "zeroshot-gpt-3.5", "--dataset", "planted", *words, "--json", home=home
        )
        assert json.loads(done.stdout)["config"]["api_base"] == address
    done = rbserve("train", "--model", "zeroshot-gpt-3.5", "--dataset", "planted", "--api-base", "localhost",
                   "--out", "elsewhere", home=home, check=2)  # fmt: skip
    assert "not a base URL: 'localhost'" in done.stderr
    assert not (home / "elsewhere").exists()


def test_without_a_network_the_missing_wheel_is_named(tmp_path: Path) -> None:
    done = rbserve("prepare", "ml-100k", home=tmp_path, check=1, RBSERVE_CACHE=str(tmp_path), PIP_NO_INDEX="1",
                   PIP_FIND_LINKS="")  # fmt: skip
    assert "cannot download recbole==1.2.1" in done.stderr
    assert f"put recbole-1.2.1-py3-none-any.whl (from PyPI) at {tmp_path}" in done.stderr
    assert not (tmp_path / "data" / "ml-100k").exists()


def test_serve_answers_without_torch_refuses_a_taken_port_and_leaves_cleanly(home: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rbserve",
        "serve",
        "--model",
        "dnn",
        "--dataset",
        "planted",
        "--port",
        "0",
    ]
    environment = os.environ | {"RBSERVE_HOME": str(home)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        assert line.startswith("serving dnn onnx-fp32 (planted) on http://127.0.0.1:")
        url = line.split()[-1]
        answer = httpx.post(f"{url}/v1/score", json={"history": ["i1", "i5"], "candidates": ["i9", "i2"]})
        assert [one["item"] for one in answer.json()["scores"]] == ["i9", "i2"]
        refused = httpx.post(f"{url}/v1/score", json={"history": ["nobody"], "candidates": ["i9"]})
        assert refused.status_code == 422
        assert "nobody" in refused.json()["error"]["message"]
        maps = Path(f"/proc/{server.pid}/maps")
        if maps.exists():
            loaded = maps.read_text()
            assert "onnxruntime" in loaded
            assert "libtorch" not in loaded
        _load_and_verify(url, home)
        port = url.rpartition(":")[2]
        taken = rbserve("serve", "--model", "dnn", "--dataset", "planted", "--port", port, home=home, check=1)
        assert f"error: port {port} is in use" in taken.stderr
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0


def test_serve_with_workers_takes_up_new_versions_and_logs_requests(home: Path) -> None:
    command = [sys.executable, "-m", "rbserve", "serve", "--model", "dnn", "--dataset", "planted", "--port", "0",
               "--workers", "2", "--log", "requests", "--admin"]  # fmt: skip
    environment = os.environ | {"RBSERVE_HOME": str(home)}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stderr
        assert server.stdout
        # On a single core it warns of that first.
        lines = (line for line in iter(server.stderr.readline, "") if not line.startswith("warning: "))
        said = list(islice(lines, 3))
        assert sorted(line[:13] for line in said[:2]) == ["worker 1 of 2", "worker 2 of 2"]
        url = said[2].split()[-1]
        with Client(url) as client:
            before = client.score(["i1", "i5"], ["i9", "i2"])
            assert [one.name for one in client.reload()] == ["dnn"]
            assert client.score(["i1", "i5"], ["i9", "i2"]) == before
        assert server.stderr.readline() == "nothing new: the models are served as before\n"
        server.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in server.stdout]
        assert server.wait(timeout=20) == 0
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/score", 200), ("/v1/admin/reload", 200), ("/v1/score", 200)
    ]  # fmt: skip
    assert "i9" not in json.dumps(lines)


def _load_and_verify(url: str, home: Path) -> None:
    words = ("load", "--url", url, "--rate", "40", "--duration", "1", "--slate", "20")
    done = rbserve(*words, "--json", home=home, check=None)
    load = json.loads(done.stdout)
    assert load["answers"] == {"200": load["sent"]}
    assert (done.returncode == 1) == (load["void"] is not None), (
        "a busy machine's generator lags, and says so"
    )
    assert "lag of this generator" in rbserve(*words, home=home, check=None).stdout
    refused = rbserve(*words, "--model", "gdcn", home=home, check=2)
    assert f"error: {url} does not serve gdcn, but dnn" in refused.stderr
    words = ("verify", "--model", "dnn", "--dataset", "planted", "--url", url, "--rounds", "2")
    assert "p50" in rbserve(*words, "--overhead", "1000", home=home).stdout
    slower = rbserve(*words, "--overhead", "-1000", home=home, check=1)
    assert f"error: {url} adds more than -1000 times its echo to dnn" in slower.stderr


def _served(home: Path, *words: str) -> tuple[str, str, bool]:
    """What a server says on standard output and error from its start to its end, and whether it loaded torch."""
    command = [sys.executable, "-m", "rbserve", "serve", "--dataset", "planted", "--port", "0", *words]
    environment = os.environ | {"RBSERVE_HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if line.startswith("serving "):
                break
        maps = Path(f"/proc/{server.pid}/maps")
        torch = maps.exists() and "libtorch" in maps.read_text()
        server.send_signal(signal.SIGTERM)
        out, rest = server.stdout.read(), server.stderr.read()
        assert server.wait(timeout=20) == 0, said
    return out, "".join(said) + rest, torch


def test_serve_chooses_a_precision_once_says_why_and_loads_no_torch(home: Path) -> None:
    words = ("--model", "dnn", "--precision", "auto", "--tolerance", "0.05", "--slate", "30")
    table, said, torch = _served(home, *words)
    assert "choosing a variant of dnn: measuring latency, and accuracy on" in said
    served = re.findall(r"serving dnn (\S+) ", said)
    chosen = re.findall(r"^(\S+) .*chosen: the fastest", table, re.MULTILINE)
    assert served == chosen
    assert torch == (chosen == ["torch-fp32"])
    title = table.splitlines()[0]
    assert title.startswith("dnn on planted, slate 30, 1 thread, at most 0.05 AUC lost against torch-fp32; ")
    assert title.endswith("; measured for this choice")
    assert re.search(r"^torch-fp32 +[\d.]+ +reference +(allowed|chosen)", table, re.MULTILINE)
    again, said, _ = _served(home, *words)
    assert again == table
    assert "measuring" not in said


def test_serve_names_the_variant_that_it_cannot_choose_for_its_file_is_damaged(
    home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("choices", "runs"))
    (tmp_path / "artifacts" / "planted" / "dnn" / "onnx" / "int8.onnx").write_bytes(b"broken")
    table, said, _ = _served(tmp_path, "--model", "dnn", "--precision", "auto")
    assert re.search(r"^onnx-int8 +– +– +refused: artefact dnn is damaged", table, re.MULTILINE)
    assert "serving dnn onnx-fp32" in said
    assert not (tmp_path / "choices").exists()  # the file may be mended


def test_a_named_precision_is_served_as_its_variant(home: Path) -> None:
    table, said, _ = _served(home, "--model", "dnn", "--precision", "int8")
    assert table == ""
    assert said.startswith("serving dnn onnx-int8")
