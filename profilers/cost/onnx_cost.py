"""What an exported graph costs, by onnxruntime's own profile: shapes and time of each node as it ran, fusions made."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbserve.profilers.cost.operators import Opened, Spent, make_calls, total
from rbserve.profilers.timing.latency import Clock
from rbserve.runs.plan import Slate
from rbserve.runtimes.session import profiled_sessions

Shape = list[int]
Tensor = dict[str, Shape]  # of one element: type and shape

# Of a product: the bits that a number of its right side is stored in, and the kind of number it is made with.
# MatMulNBits is stored as its variant says, and made in 8 bits (exporters/weights.py).
PRODUCTS = {
    "MatMul": (32, "fp32"),
    "FusedMatMul": (32, "fp32"),
    "Gemm": (32, "fp32"),
    "FusedGemm": (32, "fp32"),
    "MatMulInteger": (8, "int8"),
    "MatMulIntegerToFloat": (8, "int8"),
    "DynamicQuantizeMatMul": (8, "int8"),
    "MatMulNBits": (None, "int8"),
}
LOOK_UPS = ("Gather", "GatherElements", "GatherND", "Slice")  # read as much of their table as they give
VIEWS = ("Shape", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # move nothing
CONTROL = ("If", "Loop", "Scan")  # the nodes of their bodies are told themselves
ITEM_BYTES = {
    "double": 8, "int64": 8, "uint64": 8, "float": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2,
}  # fmt: skip


class ProfiledNode(msgspec.Struct, frozen=True):
    """A node of onnxruntime's profile; sizes are bytes, `parameter_size` those of constant inputs.

    The right side of a product that onnxruntime packed when it loaded the graph is not among the inputs.
    """

    op_name: str = ""
    input_type_shape: list[Tensor] = []
    output_type_shape: list[Tensor] = []
    parameter_size: str = "0"
    activation_size: str = "0"
    output_size: str = "0"


class _Event(msgspec.Struct, frozen=True):
    """An entry of the profile; microseconds from its start."""

    cat: str = ""
    name: str = ""
    ts: int = 0
    dur: int = 0
    args: ProfiledNode = ProfiledNode()


def look_into(
    variant: str, slates: Sequence[Slate], open_variant: Callable[[], Opened]
) -> list[tuple[int, Spent]]:
    """For each slate, the number of calls and the operations, bytes and times of their operators."""
    windows: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory(prefix="rbserve-cost-") as folder:
        with profiled_sessions(Path(folder)) as sessions:
            exercise_of = open_variant()
        clock = _clock(sessions[0])
        begins: list[int] = []
        for slate in slates:
            begins.append(clock())
            calls = make_calls(exercise_of(slate), forget=lambda: begins.append(clock()))
            windows.append((calls, begins[-1], clock()))
        nodes = [node for session in sessions for node in _nodes(session)]
    bits = 4 if variant.endswith("int4") else 8
    return [
        (calls, total(node_cost(node, ns, bits) for at, ns, node in nodes if begin <= at < end))
        for calls, begin, end in windows
    ]


def _clock(session: Any) -> Clock:
    """The clock of onnxruntime's profile: the finest one of C++, which differs between systems."""
    return min(
        (time.time_ns, time.monotonic_ns),
        key=lambda clock: abs(clock() - session.get_profiling_start_time_ns()),
    )


def _nodes(session: Any) -> Iterator[tuple[int, int, ProfiledNode]]:
    """Each node that ran: its start by `_clock` and its duration, nanoseconds, and the node."""
    start = session.get_profiling_start_time_ns()
    profile = Path(session.end_profiling()).read_bytes()
    for event in msgspec.json.decode(profile, type=list[_Event]):
        if event.cat == "Node" and event.name.endswith("_kernel_time"):
            yield start + event.ts * 1000, event.dur * 1000, event.args


def node_cost(node: ProfiledNode, ns: int = 0, bits: int = 8) -> Spent:
    """The operations and bytes of a node that took `ns`; `bits`: of a weight of MatMulNBits."""
    name = node.op_name
    if name in CONTROL:
        return Spent()
    flops = Counter[str]()
    constant, activation, written = map(int, (node.parameter_size, node.activation_size, node.output_size))
    if name in VIEWS:
        constant = activation = written = 0
    elif name in LOOK_UPS:
        table = _bytes(node.input_type_shape[0])
        unread = max(0, table - written)
        constant, activation = (
            (constant - unread, activation) if constant >= table else (constant, activation - unread)
        )
    elif name in PRODUCTS:
        stored, kind = PRODUCTS[name]
        inner, columns, flops[kind] = _product(node)
        if not _has_right_side(node, inner, columns):
            constant += inner * columns * (stored or bits) // 8
    return Spent(flops, constant, activation + written, Counter({name: ns}))


def _product(node: ProfiledNode) -> tuple[int, int, int]:
    """The inner length of a product, its columns, and its operations (two for a multiplication and addition)."""
    left, result = _shape(node.input_type_shape[0]), _shape(node.output_type_shape[0])
    transposed = len(left) > 1 and len(result) > 1 and left[-2] != result[-2]
    inner = left[-2 if transposed else -1]
    return inner, result[-1], 2 * inner * math.prod(result)


def _has_right_side(node: ProfiledNode, inner: int, columns: int) -> bool:
    """Whether the second input is the right side, not what follows it where that was packed."""
    second = _shape(node.input_type_shape[1]) if len(node.input_type_shape) > 1 else []
    if node.op_name == "MatMulNBits":
        return len(second) == 3  # columns, blocks, bytes
    return sorted(second[-2:]) == sorted((inner, columns))


def _shape(tensor: Tensor) -> Shape:
    (shape,) = tensor.values()
    return shape


def _bytes(tensor: Tensor) -> int:
    ((kind, shape),) = tensor.items()
    return ITEM_BYTES.get(kind, 1) * math.prod(shape)
