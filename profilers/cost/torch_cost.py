"""What a torch module costs, operator by operator as torch dispatches them; products by torch's own formulas."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from rbserve.core.variants import find_variant
from rbserve.profilers.cost.operators import Opened, Spent, make_calls, total
from rbserve.runs.plan import Slate

LOOK_UPS = ("embedding", "index_select", "gather", "index")  # read as much of their table as they give
VIEWS = ("_unsafe_view", "_reshape_alias", "detach", "alias")  # beside what torch itself calls a view

# The processor's attention has no formula of its own in torch 2.13; its products are those of the other.
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
    **flop_registry,
}


def look_into(
    variant: str, slates: Sequence[Slate], open_variant: Callable[[], Opened]
) -> list[tuple[int, Spent]]:
    """For each slate, the number of calls and the operations, bytes and times of their operators."""
    exercise_of = open_variant()
    first = exercise_of(slates[0])
    with observed_operators(""):  # torch looks its operators up when they are first taken apart
        first.call(*first.requests[0])
    spent_by_slate = []
    for slate in slates:
        with observed_operators(find_variant(variant).precision) as spent:
            calls = make_calls(exercise_of(slate), spent.clear)
        spent_by_slate.append((calls, total(spent)))
    return spent_by_slate


@contextmanager
def observed_operators(kind: str) -> Iterator[list[Spent]]:
    """Collects what each operator takes that torch runs in this context; products are of numbers of `kind`."""
    operators = _Operators(kind)
    with operators:
        yield operators.spent


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Decomposes an operator until it has a formula or no parts, runs it, and records what it took.

    A weight is a module's parameter, or another look at its memory.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spent: list[Spent] = []
        self._kind = kind
        self._weights: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """True: torch's compiler, which takes seconds to import, has nothing to compile here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None) -> Any:
        del types
        kwargs = kwargs or {}
        formula = FORMULAS.get(func.overloadpacket)
        if formula is None:
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        begin = time.perf_counter_ns()
        out = func(*args, **kwargs)
        ns = time.perf_counter_ns() - begin
        flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
        self._note(func, ns, flops, _tensors((args, kwargs)), _tensors(out))
        return out

    def _note(self, func: Any, ns: int, flops: int, read: list[Any], written: list[Any]) -> None:
        name = func.overloadpacket.__name__
        self._weights |= {_memory(tensor) for tensor in read if isinstance(tensor, torch.nn.Parameter)}
        moved = Counter[bool]()  # by whether it is of a weight
        if not (func.is_view or name in VIEWS):
            written_bytes = sum(tensor.nbytes for tensor in written)
            moved[False] += written_bytes
            for place, tensor in enumerate(read):
                size = min(tensor.nbytes, written_bytes) if place == 0 and name in LOOK_UPS else tensor.nbytes
                moved[_memory(tensor) in self._weights] += size
        kinds = Counter({self._kind: flops}) if flops else Counter[str]()
        self.spent.append(Spent(kinds, moved[True], moved[False], Counter({name: ns})))


def _tensors(nested: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr())
