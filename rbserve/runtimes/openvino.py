"""The runtime openvino: the graph of another variant in OpenVINO, its products made in bf16."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, first_line
from rbserve.core.types import Ranker, Scorer
from rbserve.core.variants import DEFAULT_SERVED, Variant
from rbserve.data.artifact import Artifact
from rbserve.machine.environment import processor
from rbserve.runtimes.onnx import PAST, PAST_PLACES, USER, over_graphs
from rbserve.runtimes.session import Session

BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
HINT = f"pip install 'rbserve[openvino]', or choose {DEFAULT_SERVED}"


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Why no graph can be run in bf16 here, if so."""
    return without_bf16()


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:
    """The scorer or ranker over the graphs that the variant is loaded from."""
    return over_graphs(artifact, variant, partial(open_bf16_session, threads=threads), user_cache)


def without_bf16() -> str | None:
    """Why no graph can be run in bf16 here, if so."""
    if not BF16_FLAGS & processor()[1]:
        return "this processor has no bf16"
    return "openvino is not installed" if importlib.util.find_spec("openvino") is None else None


def open_bf16_session(path: Path, threads: int) -> Session:
    """A graph in OpenVINO, its products made in bf16. ArtifactError when the file cannot be loaded."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # which cores there are is for whoever starts the process to say
    }
    core = openvino.Core()
    try:
        model = core.read_model(path)
        defaults = _replaceable(model)
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactError(f"openvino cannot load {path}: {first_line(error)}") from error
    if any(
        output.partial_shape.rank.is_static and not len(output.partial_shape) for output in compiled.outputs
    ):
        raise ArtifactError(
            f"openvino misreads {path}, which an earlier version wrote",
            "rbserve export --precision fp32 writes it anew",
        )
    return OpenVinoSession(compiled, defaults)


def _replaceable(model: Any) -> Mapping[str, NDArray[Any]]:
    """Makes inputs of what a graph has as defaults of what was read of a history; OpenVINO takes them for constants.

    Returns the defaults. An item table stays a constant: it would be handed over with each call.
    """
    from openvino import PartialShape, op

    nodes = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    states = {node.get_friendly_name(): node for node in nodes if node.get_friendly_name() in (PAST, USER)}
    defaults = {name: np.array(node.data) for name, node in states.items()}
    for name, node in states.items():
        shape = [
            -1 if name == PAST and axis == PAST_PLACES else size for axis, size in enumerate(node.data.shape)
        ]
        entry = op.Parameter(node.get_element_type(), PartialShape(shape))
        entry.get_output_tensor(0).set_names({name})
        node.output(0).replace(entry.output(0))
        model.add_parameters([entry])
    if states:
        model.validate_nodes_and_infer_types()
    return defaults


class OpenVinoSession:
    """A compiled model of OpenVINO as a `Session`."""

    class Input(NamedTuple):
        """What goes in or comes out; of an unknown size None."""

        name: str
        shape: list[int | None]

    def __init__(self, compiled: Any, defaults: Mapping[str, NDArray[Any]]) -> None:
        """`defaults`: values of inputs for calls that do not have them."""
        self._defaults = defaults
        self._request, self._lock = compiled.create_infer_request(), Lock()
        self._names = [output.any_name for output in compiled.outputs]
        self._inputs, self._outputs = (
            [
                self.Input(
                    tensor.any_name,
                    [size.get_length() if size.is_static else None for size in tensor.partial_shape],
                )
                for tensor in tensors
            ]
            for tensors in (compiled.inputs, compiled.outputs)
        )

    def get_inputs(self) -> list[Input]:
        """What goes in."""
        return self._inputs

    def get_outputs(self) -> list[Input]:
        """What comes out."""
        return self._outputs

    def get_overridable_initializers(self) -> list[Input]:
        """Nothing: OpenVINO takes defaults for constants."""
        return []

    def run(self, names: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The named outputs, or all of them in their order; one call at a time."""
        with self._lock:
            inputs = {**self._defaults, **arrays} if self._defaults else arrays
            outputs = self._request.infer(inputs, share_inputs=True, share_outputs=True)
            return [np.array(outputs[name]) for name in names or self._names]
