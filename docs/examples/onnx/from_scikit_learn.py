"""Trains boosted trees of scikit-learn on train.parquet and writes boosting.onnx with skl2onnx.

python docs/examples/onnx/from_scikit_learn.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingClassifier

train = pd.read_parquet("train.parquet")
model = GradientBoostingClassifier(n_estimators=40, max_depth=5, random_state=1)
model.fit(train[["likes", "price"]].to_numpy(), train["click"])

inputs = [("features", FloatTensorType([None, 2]))]
graph = to_onnx(model, initial_types=inputs, options={"zipmap": False}, target_opset=17)
Path("boosting.onnx").write_bytes(graph.SerializeToString())
