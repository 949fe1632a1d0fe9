"""Writes a model that is the given one but for its accuracy: its scores have noise that costs 0.002 AUC on a table.

    python docs/examples/onnx/worse_head.py mlp.onnx clicks.parquet --label click --map features=likes,price

writes mlp-worse.onnx, which a gate must refuse. The noise is a function of the score, sin(10,000 score), so that the
same request always has the same scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.metrics import roc_auc_score

FREQUENCY, LOSS = 10_000.0, 0.002


def scores_of(graph: onnx.ModelProto, table: pd.DataFrame, columns: dict[str, list[str]]) -> NDArray[Any]:
    """The probabilities of a click that the last output of the graph has for the rows of the table: float32[N]."""
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    values = {
        tensor.name: table[columns.get(tensor.name, [tensor.name])].to_numpy()
        for tensor in session.get_inputs()
    }
    scores: NDArray[Any] = session.run([graph.graph.output[-1].name], values)[0]
    return scores if scores.ndim == 1 else scores[:, -1]


def noisy(scores: NDArray[Any], share: float) -> NDArray[Any]:
    """Scores of which `share` is noise."""
    return (1 - share) * scores + share * (0.5 + 0.5 * np.sin(np.float32(FREQUENCY) * scores))


def costly_share(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of noise that costs LOSS of AUC."""
    whole, low, high = roc_auc_score(labels, scores), 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        lost = whole - roc_auc_score(labels, noisy(scores, middle))
        low, high = (low, middle) if lost > LOSS else (middle, high)
    return high


def with_noise(graph: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The graph with one more output, `worse`: its last one with noise, of the same shape."""
    last = graph.graph.output[-1]
    numbers = {"frequency": FREQUENCY, "kept": 1 - share, "half": share / 2}
    graph.graph.initializer.extend(
        helper.make_tensor(f"noise_{name}", TensorProto.FLOAT, [], [value]) for name, value in numbers.items()
    )
    steps = [
        ("Mul", [last.name, "noise_frequency"], "noise_phase"),
        ("Sin", ["noise_phase"], "noise_wave"),
        ("Mul", ["noise_wave", "noise_half"], "noise_scaled"),
        ("Mul", [last.name, "noise_kept"], "noise_rest"),
        ("Add", ["noise_rest", "noise_scaled"], "noise_sum"),
        ("Add", ["noise_sum", "noise_half"], "worse"),
    ]
    graph.graph.node.extend(helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps)
    worse = onnx.ValueInfoProto()
    worse.CopyFrom(last)
    worse.name = "worse"
    del graph.graph.output[:]
    graph.graph.output.append(worse)
    return graph


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--map", action="append", default=[], metavar="INPUT=COLUMN,…")
    given = parser.parse_args()
    columns = {name: text.split(",") for name, text in (word.split("=", 1) for word in given.map)}
    graph, table = onnx.load(given.model), pd.read_parquet(given.table)
    share = costly_share(scores_of(graph, table, columns), table[given.label].to_numpy())
    path = given.model.with_name(f"{given.model.stem}-worse.onnx")
    onnx.save(with_noise(graph, share), path)
    print(f"{path}: noise of {share:.2%} costs {LOSS} AUC")


if __name__ == "__main__":
    main()
