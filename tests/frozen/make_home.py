"""Writes a home with the installed version of rbserve: `python make_home.py FOLDER`, an empty or new folder.

It holds a data set of invented users and items, five models of a few hundred weights with their ONNX files, a run file
of each, the data of their report, and a server's answers. Each step is a command of `rbserve` or an HTTP request, so
the script works with any version. See README.md.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

USERS, ITEMS, EVENTS, TOPICS = 60, 40, 20, 4
DATASET = "shop"
SMALL = ("--epochs", "3", "--batch", "64", "--micro-batch", "64", "--lr", "0.01")
PAIR_WISE = (*SMALL, "--set", "dim=8", "--set", "hidden=16,8")
LIST_WISE = (*SMALL, "--set", "dim=8", "--set", "heads=2", "--set", "layers=1")
CODES = ("--set", "levels=2", "--set", "codes=8")
HISTORY = ["i1", "i5", "i9", "i2"]
SCORE = ("/v1/score", {"history": HISTORY, "candidates": ["i13", "i14", "i3", "i13"]})
RECOMMEND = ("/v1/recommend", {"history": HISTORY, "k": 5, "exclude_seen": True})


class Made(NamedTuple):
    """A model, the command that makes it, what is measured of it, and what its server is asked."""

    model: str
    command: tuple[str, ...]
    precisions: str
    slates: str
    request: tuple[str, dict[str, Any]]

    @property
    def variants(self) -> list[str]:
        """The variants to measure and to serve."""
        return ["torch-fp32", *(f"onnx-{precision}" for precision in self.precisions.split(","))]


MODELS = [
    Made("dnn", ("train", "--model", "dnn", *PAIR_WISE), "fp32,int8", "1,8", SCORE),
    Made("dnn-from-dnn", ("distill", "--teacher", "dnn", "--student", "dnn", *PAIR_WISE), "fp32", "8", SCORE),
    Made("pnn-random", ("train", "--model", "pnn", "--weights", "random", *PAIR_WISE), "fp32", "8", SCORE),
    Made("sasrec-3l", ("train", "--model", "sasrec-3l", *LIST_WISE), "fp32,int8", "5", RECOMMEND),
    Made(
        "sid-sasrec-3l-cbs",
        ("train", "--model", "sid-sasrec-3l-cbs", *LIST_WISE, *CODES),
        "fp32",
        "5",
        RECOMMEND,
    ),
]


def main(home: Path) -> None:
    """Makes the home in a folder that is empty or not there."""
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()):
        sys.exit(f"{home} is not empty")
    _write_tables(home)
    rbserve(home, "prepare", "csv", "--name", DATASET, "--interactions", "events.csv", "--items", "items.csv",
            "--user", "user", "--item", "item", "--time", "time", "--label", "liked", "--text", "title",
            "--history", "6", "--seqrec-test", "20", "--seqrec-finetune", "40", "--ctr-test", "120",
            "--ctr-finetune", "400")  # fmt: skip
    for made in MODELS:
        path = f"artifacts/{DATASET}/{made.model}"
        rbserve(home, *made.command, "--dataset", DATASET)
        rbserve(home, "export", "--model", path, "--dataset", DATASET, "--precision", made.precisions)
        rbserve(home, "profile", "--model", path, "--dataset", DATASET, "--slates", made.slates,
                "--processes", "2", "--runs", "10", "--variants", ",".join(made.variants))  # fmt: skip
    rbserve(home, "report", "--name", DATASET)
    answers = [_answer(home, made, variant) for made in MODELS for variant in made.variants]
    (home / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    report = json.loads((home / "reports" / DATASET / "report.json").read_text())
    for table in report["paper_tables"]:  # the paper's other rows are the same in every report
        table["rows"] = [row for row in table["rows"] if row["model"] in [made.model for made in MODELS]]
    (home / "report.json").write_text(json.dumps(report) + "\n")
    for folder in ("reports", "teachers", "data/shop/sids"):
        shutil.rmtree(home / folder, ignore_errors=True)
    for table in home.glob("*.csv"):
        table.unlink()


def _write_tables(home: Path) -> None:
    """A user likes the items of one topic, nine times in ten, and others once in ten."""
    rng = random.Random(2024)
    with (home / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "title"])
        writer.writerows([f"i{item}", f"topic{item % TOPICS} word{item // TOPICS}"] for item in range(ITEMS))
    with (home / "events.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "liked"])
        for user in range(USERS):
            for time, item in enumerate(rng.sample(range(ITEMS), EVENTS)):
                liked = rng.random() < (0.9 if item % TOPICS == user % TOPICS else 0.3)
                writer.writerow([f"u{user}", f"i{item}", 1_700_000_000 + time, int(liked)])


def rbserve(home: Path, *words: str) -> None:
    """Runs a command of the installed version in the home."""
    subprocess.run([sys.executable, "-m", "rbserve", *words], cwd=home, env=_environment(home), check=True)


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _answer(home: Path, made: Made, variant: str) -> dict[str, Any]:
    """What a server of the variant answers to the model's request."""
    path, request = made.request
    artifact = f"artifacts/{DATASET}/{made.model}"
    command = [
        sys.executable,
        "-m",
        "rbserve",
        "serve",
        "--model",
        artifact,
        "--variant",
        variant,
        "--port",
        "0",
    ]
    with subprocess.Popen(
        command, cwd=home, env=_environment(home), stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            address = next(line for line in server.stderr if line.startswith("serving ")).split()[-1]
            asked = urllib.request.Request(
                address + path, json.dumps(request).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=10) as response:
                return {
                    "artifact": artifact,
                    "path": path,
                    "request": request,
                    "response": json.load(response),
                }
        finally:
            server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
