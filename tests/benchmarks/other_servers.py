"""The same exported file behind other servers, to compare with: python other_servers.py fastapi ARTEFACT GRAPH.

Runs in an environment of its own (fastapi with uvicorn, or litserve; onnxruntime, pyarrow). Takes and gives the JSON
of POST /v1/score, as somebody would write it in an afternoon. Prints `ready URL` on stderr.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet


class Model:
    """The item table and the graph."""

    def __init__(self, artifact: Path, graph: str) -> None:
        ids = pyarrow.parquet.read_table(artifact / "items.parquet")["item_id"].to_pylist()
        self.rows = {item: row for row, item in enumerate(ids)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            artifact / graph, options, providers=["CPUExecutionProvider"]
        )

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Scores, as JSON will have them."""
        given = {
            name: np.array([self.rows[item] for item in asked[name]], np.int32)
            for name in ("history", "candidates")
        }
        scores = self.session.run(None, given)[0].tolist()
        return {
            "scores": [
                {"item": item, "score": score}
                for item, score in zip(asked["candidates"], scores, strict=True)
            ]
        }


def fastapi(model: Model, port: int) -> None:
    """FastAPI with uvicorn, uvloop and httptools."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        history: list[str]
        candidates: list[str]

    app = FastAPI()

    @app.post("/v1/score")
    async def score(asked: Asked) -> dict[str, Any]:
        return model.answer({"history": asked.history, "candidates": asked.candidates})

    score.__annotations__["asked"] = Asked
    uvicorn.run(app, port=port, log_level="warning", loop="uvloop", http="httptools")


def litserve(model: Model, port: int) -> None:
    """LitServe with one worker."""
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            del device

        def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
            return request

        def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
            return model.answer(asked)

        def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
            return output

    server = litserve.LitServer(Api(api_path="/v1/score"), accelerator="cpu", fast_queue=True)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")


def main() -> None:
    """Serves until it is told to stop."""
    name, artifact, graph = sys.argv[1:]
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    model = Model(Path(artifact), graph)
    serve = {"fastapi": fastapi, "litserve": litserve}[name]
    import threading
    import time

    def tell() -> None:
        while True:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        print(f"ready http://127.0.0.1:{port}", file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    serve(model, port)


if __name__ == "__main__":
    main()
