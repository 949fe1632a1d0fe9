"""Trains a pipeline of scikit-learn that reads texts, and writes categories.onnx: a string and a number in.

python docs/examples/onnx/from_texts.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

train = pd.read_parquet("train.parquet")
one_hot = make_column_transformer((OneHotEncoder(), ["category"]), ("passthrough", ["likes", "price"]))
model = make_pipeline(one_hot, LogisticRegression())
model.fit(train[["category", "likes", "price"]], train["click"])

number = FloatTensorType([None, 1])
inputs = [("category", StringTensorType([None, 1])), ("likes", number), ("price", number)]
graph = to_onnx(model, initial_types=inputs, options={"zipmap": False}, target_opset=17)
Path("categories.onnx").write_bytes(graph.SerializeToString())
