"""docs/serving.md and docs/deploy say what the command line and the server have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from entry_point import rbserve
from prometheus_client import CollectorRegistry, generate_latest

from rbserve.server.api.openapi import FREE
from rbserve.server.observe.telemetry import Telemetry, WorkerMemory

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = (DOCS / "serving.md").read_text()


def options(verb: str, home: Path) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]+", rbserve(verb, "--help", home=home, COLUMNS="200").stdout))


def test_every_option_in_the_examples_exists(tmp_path: Path) -> None:
    shown: dict[str, set[str]] = {}
    for verb, rest in re.findall(r"^rbserve (\w+)([^#\n]*)", TEXT, re.MULTILINE):
        shown.setdefault(verb, set()).update(re.findall(r"(?<= )--[a-z][a-z-]+", rest))
    assert {"recommend", "serve", "verify", "load"} <= shown.keys()
    for verb, found in shown.items():
        assert found <= options(verb, tmp_path), verb


def containers() -> list[dict[str, Any]]:
    """What the examples run, with its arguments as `args`."""
    compose = yaml.safe_load((DOCS / "deploy" / "compose.yaml").read_text())["services"]["rbserve"]
    deployment, _ = yaml.safe_load_all((DOCS / "deploy" / "kubernetes.yaml").read_text())
    kserve = yaml.safe_load((DOCS / "deploy" / "kserve.yaml").read_text())
    return [
        {"args": compose["command"]},
        *deployment["spec"]["template"]["spec"]["containers"],
        *kserve["spec"]["predictor"]["containers"],
    ]


def test_containers_are_started_with_options_that_exist_and_probed_where_there_is_an_answer(
    tmp_path: Path,
) -> None:
    known = options("serve", tmp_path)
    dockerfile = (DOCS / "deploy" / "Dockerfile").read_text()
    assert set(re.findall(r'"(--[a-z-]+)"', dockerfile)) <= known
    for one in containers():
        assert {word for word in one["args"] if word.startswith("--")} <= known
        probes = [probe["httpGet"]["path"] for key, probe in one.items() if key.endswith("Probe")]
        assert set(probes) <= set(FREE)
    assert re.search(r"/v1/health/ready", dockerfile)


def test_the_metrics_that_are_named_are_there(tmp_path: Path) -> None:
    of_workers = CollectorRegistry()
    of_workers.register(WorkerMemory(tmp_path))
    found = (Telemetry().exposition() + generate_latest(of_workers)).decode()
    named = set(re.findall(r"`((?:rbserve|process)_\w+)", TEXT))
    assert len(named) > 4
    for name in named:
        assert f"# TYPE {name.removesuffix('_total')}" in found, name


@pytest.mark.parametrize(("used", "wait"), re.findall(r"^\| (0\.\d) \| ([\d.]+) \|$", TEXT, re.MULTILINE))
def test_waits_are_those_of_the_formula(used: str, wait: str) -> None:
    share = float(used)
    assert float(wait) == pytest.approx(share / (2 * (1 - share)), abs=0.05)
