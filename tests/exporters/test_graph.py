"""Traced graphs: a weight has one name, whatever the number of times that its module is called."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from rbserve.exporters.calibration import weighted_products
from rbserve.exporters.graph import trace


class Twice(nn.Module):
    """A layer that is called twice, and another with the same bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        nn.init.zeros_(self.layer.bias)
        nn.init.zeros_(self.other.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.relu(self.layer(torch.relu(self.layer(x[None])))))[0]


def test_a_module_that_is_called_twice_has_two_products_by_one_weight() -> None:
    module, x = Twice(), torch.randn(4, 3)
    graph = trace(module, (x,), {"x": {0: "N"}}, {"y": {0: "N"}})
    assert not [node for node in graph.graph.node if node.op_type == "Identity"]
    weights = [node.input[1] for node in weighted_products(graph.graph)]
    assert len(weights) == 3
    assert len(set(weights)) == 2
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in (0, 1, 4):
        (made,) = session.run(None, {"x": x[:rows].numpy()})
        np.testing.assert_allclose(made, module(x[:rows]).detach().numpy(), atol=1e-6)
