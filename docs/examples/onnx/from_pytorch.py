"""Trains a network of PyTorch on train.parquet and writes mlp.onnx: float32[N, 2] in, click probabilities [N] out.

python docs/examples/onnx/from_pytorch.py
"""

from __future__ import annotations

import pandas as pd
import torch

train = pd.read_parquet("train.parquet")
features = torch.tensor(train[["likes", "price"]].to_numpy())
clicks = torch.tensor(train["click"].to_numpy(), dtype=torch.float32)

torch.manual_seed(1)
model = torch.nn.Sequential(
    torch.nn.Linear(2, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, 1), torch.nn.Flatten(0), torch.nn.Sigmoid(),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for batch in torch.arange(len(features)).split(512):
    optimizer.zero_grad()
    torch.nn.functional.binary_cross_entropy(model(features[batch]), clicks[batch]).backward()
    optimizer.step()

torch.onnx.export(
    model.eval(), (features[:2],), "mlp.onnx", input_names=["features"], output_names=["scores"],
    dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True, external_data=False, verbose=False,
)  # fmt: skip
