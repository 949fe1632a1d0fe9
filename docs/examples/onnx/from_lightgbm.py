"""Trains LightGBM on train.parquet and writes trees.onnx with onnxmltools.

python docs/examples/onnx/from_lightgbm.py
"""

from __future__ import annotations

import lightgbm
import onnxmltools
import pandas as pd
from onnxmltools.convert.common.data_types import FloatTensorType

train = pd.read_parquet("train.parquet")
data = lightgbm.Dataset(train[["likes", "price"]], train["click"])
settings = {"objective": "binary", "seed": 1, "num_threads": 1, "verbose": -1}
booster = lightgbm.train(settings, data, num_boost_round=40)

inputs = [("features", FloatTensorType([None, 2]))]
graph = onnxmltools.convert_lightgbm(booster, initial_types=inputs, zipmap=False, target_opset=15)
onnxmltools.utils.save_model(graph, "trees.onnx")
