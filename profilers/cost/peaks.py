"""The peaks of this machine, by the fastest kernels that are installed, on the cores and threads of this process."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

SIDE = (
    512  # of square matrices: large enough for the peak, done within a millisecond, between two interruptions
)
SMALLEST, LARGEST = 1 << 20, 1 << 28  # bytes
CHUNK = 1 << 19  # bytes of either array that are timed at once
TRIAL_S = 0.2

Kernel = Callable[[], object]


def peak_gflops(kind: str, threads: int) -> float | None:
    """Operations a nanosecond in a product of two matrices of fp32, bf16 or int8; two a multiplication and addition.

    By whichever is fastest of numpy, onnxruntime (where the package onnx is there to write the graph) and torch (where
    it is loaded); None where none of them makes such a product.
    """
    kernels = _kernels(kind, threads)
    return 2 * SIDE**3 / min(min(_times_ns([kernel])) for kernel in kernels) if kernels else None


def bandwidth_gbs(size: int) -> float:
    """Bytes a nanosecond, going through `size` bytes (at least 1 MiB, at most 256): those read, or read and written.

    What a cache holds is faster than memory, and of a small model the caches hold all.
    """
    half = min(max(size, SMALLEST), LARGEST) // 8
    source, target = np.ones(half, np.float32), np.zeros(half, np.float32)
    step = CHUNK // source.itemsize
    parts = [(source[at : at + step], target[at : at + step]) for at in range(0, half - step + 1, step)]
    copies: list[Kernel] = [partial(np.copyto, b, a) for a, b in parts]
    reads: list[Kernel] = [partial(np.dot, a, b) for a, b in parts]
    # A chunk may be faster for once; a tenth of them are not, and an interrupted one is among the others.
    return 2 * CHUNK / min(float(np.quantile(_times_ns(kernels), 0.1)) for kernels in (copies, reads))


def _kernels(kind: str, threads: int) -> list[Kernel]:
    kernels: list[Kernel] = []
    if kind == "fp32":
        matrix = np.ones((SIDE, SIDE), np.float32)
        kernels.append(lambda: matrix @ matrix)
    if kind in ("fp32", "int8") and importlib.util.find_spec("onnx"):
        kernels.append(_onnx_product(kind, threads))
    if kind in ("fp32", "bf16") and "torch" in sys.modules:
        kernels.append(_torch_product(kind))
    return kernels


def _onnx_product(kind: str, threads: int) -> Kernel:
    import onnxruntime
    from onnx import TensorProto, helper

    operator, types = {
        "fp32": ("MatMul", (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT)),
        "int8": ("MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)),
    }[kind]
    a, b, product = (
        helper.make_tensor_value_info(name, type_, [SIDE, SIDE])
        for name, type_ in zip("abc", types, strict=True)
    )
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["c"])], kind, [a, b], [product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = {
        tensor.name: np.ones((SIDE, SIDE), helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type))
        for tensor in (a, b)
    }
    return lambda: session.run(None, inputs)


def _torch_product(kind: str) -> Kernel:
    import torch

    matrix = torch.ones(SIDE, SIDE, dtype=torch.bfloat16 if kind == "bf16" else torch.float32)
    return lambda: matrix @ matrix


def _times_ns(kernels: Sequence[Kernel]) -> list[int]:
    """The times of kernels in turn, around and around, for TRIAL_S seconds and one round at least, after a first."""
    for kernel in kernels:
        kernel()
    end = time.perf_counter_ns() + round(TRIAL_S * 1e9)
    times: list[int] = []
    while not times or time.perf_counter_ns() < end:
        for kernel in kernels:
            begin = time.perf_counter_ns()
            kernel()
            times.append(time.perf_counter_ns() - begin)
    return times
