"""The same exported file behind other servers, to compare with: python other_servers.py fastapi ARTEFACT GRAPH.

Runs in an environment of its own (fastapi with uvicorn, or litserve; onnxruntime, pyarrow). Takes and gives the JSON
of POST /v1/score, as somebody would write it in an afternoon. Prints `ready URL` on stderr.
"""

import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet

try:
    import litserve
except ModuleNotFoundError:
    litserve = None


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


def serve_fastapi(model: Model, port: int) -> None:
    """FastAPI with uvicorn, uvloop and httptools."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        history: list[str]
        candidates: list[str]

    app = FastAPI()

    async def score(asked: Any) -> dict[str, Any]:
        return model.answer({"history": asked.history, "candidates": asked.candidates})

    score.__annotations__["asked"] = Asked
    app.post("/v1/score")(score)
    uvicorn.run(app, port=port, log_level="warning", loop="uvloop", http="httptools")


class Api(litserve.LitAPI if litserve else object):  # type: ignore[misc]
    """LitServe's way, in its one worker; to be sent there it must stand here."""

    files: tuple[Path, str]

    def setup(self, device: str) -> None:
        """In the worker."""
        del device
        self.model = Model(*self.files)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return request

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer."""
        return self.model.answer(asked)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


def serve_litserve(files: tuple[Path, str], port: int) -> None:
    """LitServe with one worker."""
    api = Api(api_path="/v1/score")
    api.files = files
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")


def tell(port: int) -> None:
    """Says that a server is there, when it answers."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=1):
                break
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.1)
    print(f"ready http://127.0.0.1:{port}", file=sys.stderr, flush=True)


def main() -> None:
    """Serves until it is told to stop."""
    name, artifact, graph = sys.argv[1:]
    files = Path(artifact), graph
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    threading.Thread(target=tell, args=(port,), daemon=True).start()
    if name == "fastapi":
        serve_fastapi(Model(*files), port)
    else:
        serve_litserve(files, port)


if __name__ == "__main__":
    main()
