"""The Python interface as a notebook uses it: docs/python.md runs as it stands, and a server is asked."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rbserve
from rbserve.core.files import home as current_home
from rbserve.core.requests import slate_request
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL
)
STEPS = {"choosing", "exporting", "profiling", "reporting", "training"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RBSERVE_HOME names an empty folder, and another one is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("elsewhere")
        patch.setenv("RBSERVE_HOME", str(folder))
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        yield folder


@pytest.fixture(scope="module")
def notebook(elsewhere: Path) -> dict[str, Any]:
    """The names that the examples of docs/python.md leave behind."""
    names: dict[str, Any] = {}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example, f"docs/python.md, example {number}", "exec"), names)
    return names


@pytest.mark.parametrize("words", ["import rbserve", "import rbserve; rbserve.__version__; dir(rbserve)"])
def test_importing_rbserve_imports_no_package(words: str) -> None:
    code = f"import sys; before = set(sys.modules); {words}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"rbserve", *sys.stdlib_module_names}


def test_the_names_of_the_interface_are_there() -> None:
    for name in rbserve.__all__:
        assert name in dir(rbserve)
        assert getattr(rbserve, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Hose'"):
        rbserve.Hose  # noqa: B018


def test_the_command_line_takes_the_steps_from_home() -> None:
    for file in sorted((ROOT / "rbserve" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rbserve.pipeline"):
                names = {alias.name for alias in node.names} | {str(node.module).rpartition(".")[2]}
                assert not names & STEPS, file


def test_every_step_writes_below_its_home_alone(notebook: dict[str, Any], elsewhere: Path) -> None:
    assert len(EXAMPLES) == 4
    assert not any(elsewhere.iterdir())
    made = {path.name for path in Path("shop").iterdir()}
    assert made == {"artifacts", "data", "reports", "runs"}
    assert current_home() == elsewhere, "a home holds while its methods run"


def test_the_results_are_typed_and_are_those_of_the_files(notebook: dict[str, Any]) -> None:
    run = notebook["run"]
    assert isinstance(run, Measurement)
    assert run.plan.slates == [1, 100]
    kept = read_measurement(Path("shop", "runs", f"{run.id}.json"))
    assert kept.predictions == run.predictions
    assert {result.variant for result in run.results} == {"onnx-fp32", "onnx-int8"}
    assert (notebook["folder"] / "report.html").is_file()
    assert notebook["answer"].dataset == "synthetic"
    assert notebook["outcome"].suite.exit_code == 0, notebook["outcome"].suite.lines


def test_a_record_of_options_sets_every_value_and_a_mapping_some(notebook: dict[str, Any]) -> None:
    plan = notebook["run"].plan
    again = notebook["home"].profile(notebook["artifact"].path, plan=plan, variants=["onnx-fp32"])
    assert again.plan == plan


def test_a_wrong_argument_is_refused_before_any_work(tmp_path: Path) -> None:
    home = rbserve.Home(tmp_path / "new")
    with pytest.raises(rbserve.RbserveError, match="unknown model: dnnn") as error:
        home.train("dnnn", "synthetic")
    assert error.value.hint == "did you mean dnn?"
    with pytest.raises(rbserve.RbserveError, match="unknown variant of dnn: onnx-int9"):
        home.profile("dnn", "synthetic", variants=["onnx-int9"])
    assert not home.path.exists()


def test_a_ranker_names_the_best_items_of_the_catalogue(notebook: dict[str, Any]) -> None:
    config = {"dim": 16, "heads": 2, "layers": 1}
    settings = {"epochs": 1, "batch": 512, "micro_batch": 512}
    made = notebook["home"].train("sasrec-3l", "synthetic", config=config, settings=settings)
    ranker = rbserve.open_ranker(made.path, "torch-fp32")
    items, scores = ranker.top_k(made.items.lookup(made.items.ids[:4]), 5)
    assert (items.dtype, items.shape, scores.shape) == (np.int32, (5,), (5,))
    assert (np.diff(scores) <= 0).all()
    with pytest.raises(rbserve.RbserveError, match="does not score candidates"):
        rbserve.open_scorer(made.path, "torch-fp32")


def test_a_client_is_answered_as_the_scorer_answers(notebook: dict[str, Any]) -> None:
    code = (
        "import rbserve; from rbserve.server.api.options import ServerOptions; "
        f"rbserve.Home({str(Path('shop').absolute())!r}).serve({{'dnn': 'onnx-int8'}}, options=ServerOptions(port=0))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr
        try:
            ids = notebook["data"].items.ids
            lines = iter(server.stderr.readline, "")
            url = next(line for line in lines if "http://" in line).split()[-1]
            with rbserve.Client(url) as client:
                answers = client.score(ids[:3], ids[3:8])
        finally:
            server.terminate()
            server.stderr.read()
    scores = notebook["scorer"].score(slate_request(notebook["history"], notebook["candidates"]))
    np.testing.assert_allclose(answers, scores, rtol=1e-6)
