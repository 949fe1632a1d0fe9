"""Every wrong argument is refused before any work, and every command that a hint names exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from entry_point import run_here

from rbserve.cli import app
from rbserve.data import assets

ROOT = Path(__file__).resolve().parent.parent.parent
# What may stand behind the name of the program in a sentence.
PROSE = ("and", "are", "or", "has", "is", "reads", "run")
URL = ("--url", "http://127.0.0.1:9")

WRONG = [
    *(
        (*words, "--model", "dnnn")
        for words in (
            ("train",), ("export",), ("profile",), ("serve",), ("verify", *URL), ("bench",), ("items", "add", "x.csv"),
        )
    ),
    *(
        (*words, "--dataset", "dayy")
        for words in (
            ("train", "--model", "dnn"), ("export", "--model", "dnn"), ("profile", "--model", "dnn"),
            ("serve", "--model", "dnn"), ("serve", "--model", "dnn", "--precision", "auto"),
            ("serve", "--model", "dnn", "--make"), ("verify", "--model", "dnn", *URL), ("bench", "--model", "dnn"),
            ("sids",), ("distill", "--teacher", "gdcn", "--student", "dnn"), ("profile", "--model", "dnn-emb"),
            ("recommend", "--slo", "p99<1ms"), ("report",),
        )
    ),
    ("prepare", "csv", "--name", "ml-100k", "--interactions", "clicks.csv", "--items", "items.csv"),
    ("profile", "--model", "dnn", "--variants", "onnx-int9"),
    ("profile", "--model", "dnn", "--variants", "onnx-int4"),
    ("profile", "--model", "dnn", "--variants", "openvino-bf16"),
    ("profile", "--model", "zeroshot-gpt-3.5", "--variants", "onnx-fp32"),
    ("profile", "--model", "dnn", "--slate", "0"),
    ("profile", "--model", "dnn", "--threads", "0"),
    ("profile", "--model", "dnn", "--threads", "9999"),
    ("profile", "--model", "dnn", "--processes", "0"),
    ("profile", "--model", "dnn", "--runs", "0"),
    ("profile", "--model", "dnn", "--seconds", "-1"),
    ("profile", "--model", "dnn", "--seconds", "nan"),
    ("profile", "--model", "dnn", "--budget", "0"),
    ("profile", "--model", "dnn", "--test-users", "-1"),
    ("profile", "--model", "dnn", "--exclude-seen"),
    ("profile", "--model", "dnn", "--warm"),
    ("profile", "--model", "dnn", "--scope", "all"),
    ("profile", "--model", "dnn,gdcn", "--variants", "onnx-int9"),
    ("profile", "--model", "gdcn,dnn", "--exclude-seen"),
    ("export", "--model", "gdcn,dnn", "--precision", "int9"),
    ("export", "--model", "dnn", "--precision", "int9"),
    ("export", "--model", "dnn", "--precision", "int4"),
    ("export", "--model", "zeroshot-gpt-3.5"),
    ("serve", "--model", "dnn", "--variant", "onnx-int9", "--make"),
    ("serve", "--model", "dnn", "--precision", "int9", "--make"),
    ("serve", "--model", "dnn", "--precision", "int4", "--make"),
    ("serve", "--model", "dnn", "--precision", "auto", "--tolerance", "2", "--make"),
    ("serve", "--model", "dnn", "--precision", "auto", "--slate", "0", "--make"),
    ("serve", "--model", "zeroshot-gpt-3.5", "--precision", "auto", "--make"),
    ("serve", "--model", "dnn", "--threads", "0", "--make"),
    ("serve", "--model", "dnn", "--deadline", "0", "--make"),
    ("serve", "--model", "dnn", "--api-keys", "gone", "--make"),
    ("serve", "--model", "dnn,dnnn", "--make"),
    ("verify", "--model", "dnn", *URL, "--slate", "0"),
    ("verify", "--model", "dnn", *URL, "--rounds", "0"),
    ("load", *URL, "--rate", "0"),
    ("load", *URL, "--rate", "1", "--slate", "0"),
    ("train", "--model", "dnn-emb", "--set", "encoder=./gone"),
    ("train", "--model", "dnn-emb", "--set", "encoder=gpt-3.5"),
    ("train", "--model", "dnn-emb", "--set", "pooling=max"),
    ("train", "--model", "text", "--backbone", "./gone"),
    ("train", "--model", "dnn", "--resume"),
    ("train", "--model", "dnn", "--epochs", "0"),
    ("train", "--model", "dnn", "--lr", "-1"),
    ("train", "--model", "dnn,gdcn", "--epochs", "0"),
    ("train", "--model", "dnn", "--weights", "drawn"),
    ("sids", "--encoder", "./gone"),
    ("sids", "--pooling", "max"),
    ("sids", "--levels", "0"),
    ("sids", "--epochs", "0"),
    ("sids", "--resume"),
    ("distill", "--teacher", "gdcn", "--student", "dnn", "--teacher-variant", "onnx-int9"),
    ("distill", "--teacher", "gdcn", "--student", "dnn", "--teacher-variant", "onnx-int4"),
    ("distill", "--teacher", "sasrec-3l", "--student", "dnn"),
    ("distill", "--teacher", "gdcn", "--student", "sasrec-3l"),
    ("distill", "--teacher", "gdcnn", "--student", "dnn"),
    ("distill", "--teacher", "gdcn", "--student", "dnn", "--alpha", "2"),
    ("distill", "--teacher", "gdcn", "--student", "dnn-emb", "--set", "encoder=./gone"),
    ("distill", "--teacher", "gdcn", "--student", "dnn", "--resume"),
    ("bench", "--model", "dnn", "--variants", "onnx-int9"),
    ("bench", "--model", "dnn", "--slates", "0"),
    ("bench", "--model", "dnn", "--threads", "0"),
    ("bench", "--model", "dnn", "--options", "gone.toml"),
    ("bench", "--model", "dnn", "--set", "dimm=8"),
    ("bench", "--model", "dnn,sasrec-3l", "--set", "hidden=8"),
    ("bench", "--model", "dnn", "--epochs", "0"),
    ("check", "--base", "gone", "--head", "gone"),
    ("check", "--head", "gone", "--baseline", "gone.json"),
    ("check", "--base", ".", "--head", ".", "--slates", "0"),
    ("check", "--base", ".", "--head", ".", "--scope", "all"),
    ("check", "--base", ".", "--head", ".", "--config", "gone.toml"),
    ("recommend", "--slo", "p99"),
    ("recommend", "--slo", "p99<1ms", "--slate", "0"),
    ("datasets", "show", "dayy"),
    ("prepare", "dayy"),
    ("prepare", "ml-100k", "--raw", "gone"),
    ("prepare", "ml-100k", "--vocabulary", "gone"),
    ("prepare", "ml-100k", "--negatives", "some"),
    ("prepare", "csv", "--interactions", "gone.csv", "--items", "gone.csv"),
]  # fmt: skip


@pytest.fixture
def no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home in which nothing can be fetched, prepared or trained."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def work(*given: object, **options: object) -> Any:
        raise AssertionError("work was begun")

    monkeypatch.setattr(assets, "_wheel", work)
    monkeypatch.setattr("rbserve.train.protocol.splitting.EventStore.write", work)
    monkeypatch.setattr("rbserve.train.fit.fit", work)
    monkeypatch.setattr("rbserve.train.encoders.backbone._from_hub", work)
    return tmp_path


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_argument_is_refused_before_any_work(
    words: tuple[str, ...],
    no_work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here(monkeypatch, *words) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert errors, said.err
    assert "preparing it" not in said.err
    assert "doing so" not in said.err
    assert not [*no_work.rglob("*.*")], "nothing was written"
    for command in commands_in(said.err):
        assert_parses(command)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--model", "dnn", "--out"),
        ("distill", "--teacher", "gdcn", "--student", "dnn", "--out"),
    ],
    ids=" ".join,
)
def test_a_folder_of_somebody_else_is_never_replaced(
    words: tuple[str, ...], no_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    own = tmp_path / "own files"
    own.mkdir()
    (own / "thesis").write_text("years of work")
    assert run_here(monkeypatch, *words, str(own)) == 2
    assert f"{own} is there and was not made by rbserve" in capsys.readouterr().err
    assert (own / "thesis").read_text() == "years of work"


# ---- Hints ----


def commands_in(text: str) -> list[list[str]]:
    """The rbserve commands that a text has, as words, up to where its sentence goes on."""
    found = re.findall(r"(?<![\w/.-])rbserve ([a-z]+[^;:()`,\n]*)", text)
    return [_command(words) for words in found]


def _command(text: str) -> list[str]:
    """The words of a command as far as they are options with values, or names of commands."""
    words = [word.strip(".,") for word in shlex.split(text.replace("'", "").replace('"', ""))]
    taken, rest = words[:1], words[1:]
    if taken[0] in ("datasets", "items", "models", "prepare") and rest and not rest[0].startswith("-"):
        taken.append(rest.pop(0))
    while rest and rest[0].startswith("-"):
        values = 0 if _is_flag(taken[0], rest[0]) else 1
        taken += rest[: 1 + values]
        rest = rest[1 + values :]
    return taken


@cache
def _verbs() -> dict[str, Any]:
    return {name: app.load_verb(name) for name in app.app.commands}


def _is_flag(verb: str, option: str) -> bool:
    command = _verbs().get(verb)
    options = [one for one in getattr(command, "params", []) if option in one.opts + one.secondary_opts]
    return bool(options) and options[0].is_flag


def assert_parses(words: list[str]) -> None:
    """A command of these words exists, and takes each of the options."""
    command, *rest = words
    verbs = _verbs()
    assert command in verbs, words
    verb = verbs[command]
    if hasattr(verb, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in verb.commands, words
        verb = verb.commands.get(rest[0], verb)
    known = {option for one in verb.params for option in one.opts + one.secondary_opts} | {"--help"}
    assert {word for word in rest if word.startswith("--")} <= known, words


def _texts() -> list[tuple[str, str]]:
    """(file, text) of every string of the product that names a command; the values in f-strings are a word."""
    texts = []
    files = [
        file
        for folder in ("rbserve", "train", "exporters", "profilers")
        for file in (ROOT / folder).rglob("*.py")
    ]
    for file in sorted(files):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    part.value if isinstance(part, ast.Constant) else "VALUE"
                    for part in node.values
                    if isinstance(part, ast.Constant | ast.FormattedValue)
                )  # type: ignore[arg-type]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if re.search(r"\brbserve [a-z]", text):
                texts.append((str(file.relative_to(ROOT)), text))
    return texts


def test_every_command_that_a_hint_names_exists() -> None:
    commands = [(file, command) for file, text in _texts() for command in commands_in(text)]
    assert len(commands) > 40
    for file, command in commands:
        if command[0] not in PROSE:
            assert_parses(command), file


def test_what_finds_commands_finds_wrong_ones() -> None:
    assert commands_in("rbserve prepare --frob x makes it anew; `rbserve train --model dnn`") == [
        ["prepare", "--frob", "x"], ["train", "--model", "dnn"],
    ]  # fmt: skip
    for wrong in (["frobnicate"], ["prepare", "--frob"], ["datasets", "hide"]):
        with pytest.raises(AssertionError):
            assert_parses(wrong)


def test_the_entry_point_knows_the_commands_of_this_test() -> None:
    done = subprocess.run([sys.executable, "-m", "rbserve", "--help"], capture_output=True, text=True)
    assert all(verb in done.stdout for verb in _verbs())
