"""Calibration: the range of the activations of an fp32 graph, recorded on requests of training users."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import row_request, slate_request
from rbserve.core.tasks import TASKS
from rbserve.core.types import Items
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.runtimes.fields import with_fields
from rbserve.runtimes.onnx import exported_ranker, exported_scorer
from rbserve.runtimes.session import open_session

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

REQUESTS = 128
SLATE = 64  # candidates a request: the labelled row's, and others of the catalogue
TOP = 10
MARGIN = 1.1  # activations of users and items outside the calibration requests may be a little larger
MOST_ERROR = 0.02  # relative error that one fixed step may add to activations (`Activation.is_even`)


class Activation:
    """The recorded input of a matrix product: its smallest and largest value, 0 between them, and its squares."""

    def __init__(self) -> None:
        self.low = self.high = self.squares = 0.0
        self.count = 0

    def see(self, values: NDArray[np.float32]) -> None:
        """Records the values of one call."""
        self.low = min(self.low, float(values.min(initial=0)))
        self.high = max(self.high, float(values.max(initial=0)))
        self.squares += float(np.square(values, dtype=np.float64).sum())
        self.count += values.size

    @property
    def step(self) -> float:
        """The step of uint8 that covers MARGIN times the recorded range."""
        return MARGIN * max(self.high - self.low, 1e-9) / 255

    @property
    def zero(self) -> int:
        """The number from 0 to 255 that stands for the value 0."""
        return round(-MARGIN * self.low / self.step)

    @property
    def is_even(self) -> bool:
        """Whether rounding by one fixed step adds at most MOST_ERROR, root mean square relative to the values.

        Normally distributed values have an error of 0.01. The powers that a cross network takes of its input have up
        to 0.08, because few rows are large.
        """
        size = math.sqrt(self.squares / max(self.count, 1))
        return (self.high - self.low) / 255 / math.sqrt(12) <= MOST_ERROR * size


class TokenActivation(Activation):
    """The input of a product whose rows are tokens: each has a scale of its own, whatever was recorded."""

    @property
    def is_even(self) -> bool:
        """False: a few features of a text encoder are far larger than the others, in some tokens."""
        return False


Activations = Mapping[str, Activation]
"""The recorded inputs of a graph's matrix products, by the name of the input."""


def weighted_products(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph that multiply by a constant matrix: those that int8 rounds.

    A Gemm that scales its terms, transposes its input or adds more than a constant vector is left as it is.
    DCNv2's experts and FinalMLP's heads are stacks of matrices: they stay in fp32 and are 2% of the work.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == tensor.FLOAT}
    for value in graph.input:  # a constant that a caller may replace
        constants.pop(value.name, None)
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in constants:
            continue
        if len(constants[node.input[1]].dims) == 2 and (
            node.op_type == "MatMul" or _is_plain(node, constants)
        ):
            yield node


def _is_plain(gemm: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether a Gemm is a product by a matrix and the addition of a constant vector of as many outputs, or of none."""
    options = {attribute.name: attribute.i or attribute.f for attribute in gemm.attribute}
    if options.get("alpha", 1) != 1 or options.get("beta", 1) != 1 or options.get("transA", 0):
        return False
    if len(gemm.input) < 3 or not gemm.input[2]:
        return True
    outputs = constants[gemm.input[1]].dims[0 if options.get("transB", 0) else 1]
    return gemm.input[2] in constants and [*constants[gemm.input[2]].dims] == [outputs]


def calibrate(artifact: Artifact, dataset: Dataset, graphs: Sequence[Path]) -> list[Activations]:
    """For each fp32 graph of an artefact, the recorded inputs of its `weighted_products`.

    Answers one request without a history and REQUESTS of training users, drawn by a fixed seed. Histories are in turn
    whole, cut and of one item, since any user may come; slates have the candidate of a training row and random items
    of the catalogue, since any item may be a candidate.
    """
    recorders = {path: ActivationRecorder(path) for path in graphs}
    rng, nothing = np.random.default_rng(0), np.empty(0, np.int32)
    if TASKS[artifact.manifest.task].ranks:
        ranker = exported_ranker(artifact, graphs, opening=recorders.__getitem__)
        ranker.top_k(nothing, TOP)
        sequences = dataset.seqrec("train")
        for number, row in enumerate(rng.permutation(len(sequences))[:REQUESTS]):
            ranker.top_k(_shorten(sequences.histories[row], number, rng), TOP)
    else:
        scorer = with_fields(artifact, exported_scorer(artifact, graphs, opening=recorders.__getitem__))
        scorer.score(slate_request(nothing, np.arange(min(SLATE, len(artifact.items)), dtype=np.int32)))
        clicks = dataset.ctr("train")
        for number, row in enumerate(rng.permutation(len(clicks))[:REQUESTS]):
            others = rng.integers(len(artifact.items), size=SLATE - 1, dtype=np.int32)
            history = _shorten(clicks.histories[row], number, rng)
            slate = np.append(clicks.candidates[row], others)
            scorer.score(row_request(history, slate, clicks.extras, row, row + 1))
    return [recorder.activations for recorder in recorders.values()]


def _shorten(history: Items, number: int, rng: np.random.Generator) -> Items:
    """The whole history, its newest items or its newest item, in turn by the request's number."""
    length = (len(history), rng.integers(1, len(history) + 1) if len(history) else 0, 1)[number % 3]
    return history[len(history) - min(int(length), len(history)) :]


class ActivationRecorder:
    """A `Session` of an fp32 graph that records the inputs of its matrix products."""

    def __init__(self, path: Path) -> None:
        import onnx

        model = onnx.load(path, load_external_data=False)
        self._outputs = [output.name for output in model.graph.output]
        inputs = dict.fromkeys(node.input[0] for node in weighted_products(model.graph))
        self._activations = {name: Activation() for name in inputs}
        self._fed = inputs.keys() & {value.name for value in model.graph.input}
        self._inputs = [name for name in inputs if name not in self._fed]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in self._inputs
            if name not in self._outputs
        )
        watched = path.with_name(
            f"watched.{path.name}"
        )  # beside the graph's weights, where they are looked for
        onnx.save(model, watched)
        self._session = open_session(watched, threads=1)

    @property
    def activations(self) -> Activations:
        """The inputs recorded in all calls so far."""
        return self._activations

    def get_inputs(self) -> Sequence[Any]:
        """The inputs of the graph."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> Sequence[Any]:
        """The outputs of the original graph."""
        outputs: Sequence[Any] = self._session.get_outputs()[: len(self._outputs)]
        return outputs

    def get_overridable_initializers(self) -> Sequence[Any]:
        """The inputs of the graph that have a default."""
        defaults: Sequence[Any] = self._session.get_overridable_initializers()
        return defaults

    def run(self, names: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Runs the graph; returns the named outputs, or all outputs of the original graph in their order."""
        names = names or self._outputs
        outputs: list[Any] = self._session.run([*names, *self._inputs], arrays)
        for name, values in zip(self._inputs, outputs[len(names) :], strict=True):
            self._activations[name].see(values)
        for name in self._fed:
            self._activations[name].see(arrays[name])
        return outputs[: len(names)]
