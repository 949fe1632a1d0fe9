"""Trains XGBoost on train.parquet and writes xgb.onnx with onnxmltools.

python docs/examples/onnx/from_xgboost.py
"""

from __future__ import annotations

import onnxmltools
import pandas as pd
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

train = pd.read_parquet("train.parquet")
model = xgboost.XGBClassifier(n_estimators=40, max_depth=5, n_jobs=1, random_state=1)
model.fit(train[["likes", "price"]].to_numpy(), train["click"])

inputs = [("features", FloatTensorType([None, 2]))]
graph = onnxmltools.convert_xgboost(model, initial_types=inputs, target_opset=15)
onnxmltools.utils.save_model(graph, "xgb.onnx")
