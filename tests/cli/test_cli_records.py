"""Options come from records: every field is in the help with its default, its limits are those of the command."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from typing import Annotated, Any

import pytest
import typer
from entry_point import run_here
from msgspec import Meta

from rbserve.cli import app
from rbserve.cli.records import FromRecord, with_records
from rbserve.core.errors import UsageError
from rbserve.core.options import REQUIRED, Count, Options, Positive, default_text, option_fields
from rbserve.core.settings import Settings
from rbserve.models.zoo import MODELS
from rbserve.pipeline.profiling import ENDPOINT_PLAN
from rbserve.profilers.client.plan import LoadPlan
from rbserve.profilers.gate.config import GateConfig, Tolerance
from rbserve.runs.plan import Plan
from rbserve.server.api.options import Limits, ServerOptions
from rbserve.train.datasets.options import Reading
from rbserve.train.protocol.options import Protocol, WordLimits

RECORDS = [
    Settings,
    Plan,
    GateConfig,
    Tolerance,
    LoadPlan,
    ServerOptions,
    Limits,
    Reading,
    Protocol,
    WordLimits,
]
HEAVY = ("numpy", "pyarrow", "torch", "duckdb", "onnxruntime", "starlette", "httptools", "matplotlib")
NAMES = [name for verbs in app.PANELS.values() for name in verbs]
VERBS = [
    verb
    for name in NAMES
    if not isinstance(verb := getattr(import_module(f"rbserve.cli.{name}"), name), typer.Typer)
]


@dataclasses.dataclass(frozen=True)
class Oven(Options):
    """A record with every kind of option."""

    heat: Annotated[Positive, Meta(description="Heat in degrees.")]
    minutes: Annotated[Count, Meta(description="Minutes.")] = 30
    wait_s: Annotated[float, Meta(description="Seconds before.")] = 1.5
    fan: Annotated[bool, Meta(description="Blow.")] = True
    grill: Annotated[bool, Meta(description="From above.")] = False


def bake(
    *,
    oven: Annotated[Oven, FromRecord(Oven, flags={"minutes": "--time"})],
    other: Annotated[dict[str, Any], FromRecord(Settings, ("lr", "epochs"), limits={"epochs": {"ge": 3}})],
    dish: str = "pie",
) -> object:
    """Bake a dish."""
    return oven, other, dish


def _parse(*words: str) -> Any:
    baker = typer.Typer(add_completion=False)
    baker.command()(with_records(bake))
    return typer.main.get_command(baker).main([*words], standalone_mode=False)


def test_a_command_gets_a_record_of_what_was_given_or_the_given_values_alone() -> None:
    assert _parse("--heat", "200") == (Oven(heat=200.0), {}, "pie")
    words = (
        "--heat",
        "9",
        "--time",
        "5",
        "--wait",
        "0",
        "--no-fan",
        "--grill",
        "--lr",
        "0.5",
        "--dish",
        "cake",
    )
    assert _parse(*words) == (Oven(9.0, 5, 0.0, fan=False, grill=True), {"lr": 0.5}, "cake")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--heat", "0"), "invalid option: --heat=0.0"),
        (("--heat", "nan"), "invalid option: --heat=nan"),
        (("--heat", "9", "--lr", "-1"), "invalid option: --lr=-1.0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        _parse(*words)


@pytest.mark.parametrize(
    "words",
    [(), ("--heat", "9", "--time", "0"), ("--heat", "9", "--epochs", "2"), ("--heat", "hot")],
    ids=" ".join,
)
def test_a_missing_option_and_a_wrong_number_are_mistakes_of_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(typer.exceptions.TyperException) as wrong:
        _parse(*words)
    assert wrong.value.exit_code == 2


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_option_of_a_record_is_in_the_help_with_its_meaning_and_default(
    verb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert run_here(monkeypatch, verb.__name__, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        for marker in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(marker, FromRecord):
                for flag, field in marker.options():
                    (line,) = [line for line in lines if re.match(rf"│ (\*  )? *{flag} ", line)]
                    default = marker.defaults.get(field.name, field.default)
                    assert field.description.removesuffix(".") in line
                    if default is REQUIRED:
                        assert "[required]" in line
                    elif default not in (None, False, ()):
                        assert f"(default {default_text(default)}" in line


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_a_record_says_what_it_is_for(record: Any) -> None:
    for name, field in option_fields(record).items():
        assert re.fullmatch(r"[A-Zbcfa].*\.", field.description), name


def test_the_help_of_a_plan_tells_what_endpoints_have() -> None:
    for name in ("processes", "runs", "seconds"):
        assert option_fields(Plan)[name].note == f"{ENDPOINT_PLAN[name]:g} for API endpoints"  # type: ignore[str-format]


# ---- The help ----


def test_commands_stand_in_panels_in_the_order_of_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert re.findall(r"─ (\w+) ─", text) == ["Options", *app.PANELS]
    assert re.findall(r"│ ([a-z]+) ", text) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_of_a_verb_is_the_first_sentence_of_its_help(name: str) -> None:
    (summary,) = [verbs[name] for verbs in app.PANELS.values() if name in verbs]
    assert app.load_verb(name).help.split("\n\n")[0].replace("\n", " ") == summary


@pytest.mark.parametrize(
    "words", [("--help",), ("train", "--help"), ("serve", "--help"), ("models", "--help")], ids=" ".join
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from rbserve.cli.app import main\n"
        f"sys.argv = ['rbserve', *{words!r}]\n"
        "try: main()\n"
        f"finally: print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "LOADED []" in done.stdout


# ---- models show ----


def test_the_options_of_a_model_are_listed_with_defaults_limits_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, "models", "show", "gdcn") == 0
    text = capsys.readouterr().out
    assert re.search(r"cross_layers +3 +an integer of at least 1 +Layers of the gated cross network\.", text)
    assert re.search(r"structure +parallel +one of: parallel, stacked", text)
    assert re.search(r"hidden +1000,1000,1000 ", text)
    assert re.search(r"lr +0\.001 +a number above 0 +Learning rate of Adam\.", text)


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_a_models_own_values_are_its_defaults(
    spec: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, "models", "show", spec.name, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == spec.name
    config = {row["name"]: row["default"] for row in document["config"]}
    assert config == json.loads(json.dumps(dataclasses.asdict(spec.config)))
    training = {row["name"]: row["default"] for row in document["training"]}
    assert training == dataclasses.asdict(Settings(**spec.training))


def test_showing_an_unknown_model_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(monkeypatch, "models", "show", "gdnc") == 2
    assert "hint: did you mean gdcn?" in capsys.readouterr().err
