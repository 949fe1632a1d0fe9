"""Writes train.parquet and clicks.parquet: 4,000 queries with 8 candidates each, of users who click by taste and price.

python docs/examples/onnx/clicks.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd

QUERIES, CANDIDATES, USERS = 4_000, 8, 2_000


def clicks(seed: int) -> pd.DataFrame:
    """A row for each candidate of each query, with `click` 0 or 1."""
    rng = np.random.default_rng(seed)
    query = np.repeat(np.arange(QUERIES), CANDIDATES)
    frame = pd.DataFrame(
        {
            "query": query,
            "user": query % USERS,
            "likes": rng.gamma(2.0, size=query.size).astype(np.float32),
            "price": rng.normal(size=query.size).astype(np.float32),
            "category": rng.choice(["book", "film", "game"], query.size),
        }
    )
    odds = frame.likes - frame.price - 2 + 2 * (frame.category == "film")
    return frame.assign(click=(rng.random(query.size) < 1 / (1 + np.exp(-odds))).astype(np.int64))


clicks(seed=1).to_parquet("train.parquet")
clicks(seed=2).to_parquet("clicks.parquet")
