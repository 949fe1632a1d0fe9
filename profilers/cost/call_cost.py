"""What a call costs: operations and bytes of every operator, and what this machine does of either at most.

Matrix products are the operations that count; all else is counted by the bytes it reads and writes. The calls that are
looked at are no part of any latency. `cost_onnx.py` and `cost_torch.py` look, `machine.py` measures the limits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from rbserve.core.variants import find_variant
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.profilers.cost.operators import Opened, Spent
from rbserve.profilers.cost.peaks import bandwidth_gbs, peak_gflops
from rbserve.runs.plan import Slate
from rbserve.runs.roofline import Cost
from rbserve.runtimes.memory import parameters

LOOKS_INTO = {"torch": "rbserve.profilers.cost.torch_cost", "onnx": "rbserve.profilers.cost.onnx_cost"}
"""By runtime, the module that looks into its operators."""


def measure_cost(
    artifact: Artifact,
    variant: str,
    slates: Sequence[Slate],
    threads: int,
    open_variant: Callable[[], Opened],
) -> list[Cost]:
    """The cost of a call at each slate, of a variant that is opened again with its operators observed."""
    look_into = importlib.import_module(LOOKS_INTO[find_variant(variant).runtime]).look_into
    spent_by_slate: list[tuple[int, Spent]] = look_into(variant, slates, open_variant)
    kinds = sorted({kind for _, spent in spent_by_slate for kind in spent.flops})
    peaks = {kind: peak_gflops(kind, threads) for kind in kinds}
    return [
        Cost(
            variant=variant,
            slate=slate,
            calls=calls,
            parameters=parameters(artifact.path / WEIGHTS),
            flops=dict(spent.flops),
            weight_bytes=spent.weight_bytes,
            activation_bytes=spent.activation_bytes,
            peak_gflops=peaks,
            bandwidth_gbs=bandwidth_gbs((spent.weight_bytes + spent.activation_bytes) // calls),
            operators_ns=dict(spent.operators_ns),
        )
        for slate, (calls, spent) in zip(slates, spent_by_slate, strict=True)
    ]
