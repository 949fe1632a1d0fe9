"""Asks a server of the Open Inference Protocol for scores with Triton's own client, as it is on PyPI.

    python docs/examples/onnx/ask.py mlp 'features=[[3.0, 0.2], [1.0, 0.5]]'
    python docs/examples/onnx/ask.py categories 'category=[["film"], ["book"]]' 'likes=[[3], [3]]' 'price=[[0], [0]]'

Each word has an input and its value in JSON. `--url` is the server (default localhost:8000), which has a minute to
become ready.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def wait(client: triton.InferenceServerClient, seconds: float = 60.0) -> None:
    """Returns when the server is ready; TimeoutError when it is not by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if client.is_server_ready():
                return
        except (OSError, InferenceServerException):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"no server was ready in {seconds:g} seconds")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="+", metavar="INPUT=JSON")
    parser.add_argument("--url", default="localhost:8000")
    given = parser.parse_args()
    client = triton.InferenceServerClient(given.url)
    wait(client)
    datatypes = {
        tensor["name"]: tensor["datatype"] for tensor in client.get_model_metadata(given.model)["inputs"]
    }
    tensors = []
    for name, text in (word.split("=", 1) for word in given.inputs):
        values = np.array(json.loads(text), triton_to_np_dtype(datatypes[name]))
        tensors.append(triton.InferInput(name, values.shape, datatypes[name]))
        tensors[-1].set_data_from_numpy(values)
    answer = client.infer(given.model, tensors)
    for output in answer.get_response()["outputs"]:
        print(output["name"], answer.as_numpy(output["name"]).tolist())


if __name__ == "__main__":
    main()
