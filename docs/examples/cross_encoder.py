"""Fine-tunes a cross-encoder on titles: does a user who liked those titles like this one?

    rbserve datasets export ml-100k --to tables
    python docs/examples/cross_encoder.py tables --to ranker
    rbserve adopt ranker --requests ranker/test.parquet --dataset ml-100k --group request_id --user user --label label
    rbserve serve --model ranker --variant onnx-fp32

The query is the titles of a user's history, the newest first, because a long query is cut at its end; the document is
the candidate's title. The default of 8,000 rows shows the way and teaches little.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rbserve.data.assets import fetch

BATCH, LEARNING_RATE, WARM_UP = 32, 1e-4, 0.1
"""Pairs of a step, the highest learning rate, and the part of the steps in which it rises to there."""


def pairs(table: pa.Table) -> dict[str, list[str]]:
    """The query and the document of each row of an exported table."""
    queries = [" ; ".join(titles[::-1]) for titles in table["history_texts"].to_pylist()]
    return {"query": queries, "document": table["text"].to_pylist()}


def fine_tune(model: Any, tokenizer: Any, table: pa.Table) -> None:
    """Fits a model of one logit to the labels of a table's rows, in one pass over them."""
    texts, labels = pairs(table), torch.tensor(table["label"].to_pylist(), dtype=torch.float32)
    optimizer, steps = torch.optim.AdamW(model.parameters(), LEARNING_RATE), -(-table.num_rows // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=WARM_UP)
    model.train()
    for step in range(steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        batch = texts["query"][rows], texts["document"][rows]
        tokens = tokenizer(*batch, truncation=True, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):  # half the time where a CPU multiplies bfloat16
            logits = model(**tokens).logits[:, 0].float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Writes the reranker, and test.parquet with the test rows as queries and documents."""
    parser = argparse.ArgumentParser(description="Fine-tune a cross-encoder on exported tables.")
    parser.add_argument("tables", type=Path, help="folder with the tables that rbserve datasets export wrote")
    parser.add_argument("--to", type=Path, required=True, help="folder for the model and test.parquet")
    parser.add_argument("--encoder", help="directory or hub id of an encoder (default: MiniLM)")
    parser.add_argument("--rows", type=int, default=8_000, help="training rows, drawn (default: 8000)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a pair at most (default: 64)")
    options = parser.parse_args()
    torch.manual_seed(1)  # of the new head and of dropout
    encoder = options.encoder or fetch("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(encoder, model_max_length=options.tokens)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    train, test = (pq.read_table(options.tables / f"{split}.parquet") for split in ("train", "test"))
    fine_tune(model, tokenizer, train.take(np.random.default_rng(1).permutation(len(train))[: options.rows]))
    model.save_pretrained(options.to)
    tokenizer.save_pretrained(options.to)
    rows = {name: test[name] for name in ("request_id", "user", "item", "label")}
    pq.write_table(pa.table(rows | pairs(test)), options.to / "test.parquet")


if __name__ == "__main__":
    main()
