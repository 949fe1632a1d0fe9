"""The last step of `make demo`: serves a trained model, scores one request over HTTP, and stops the server.

python tests/demo_request.py MODEL VARIANT
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

REQUEST = {"history": ["50", "181"], "candidates": ["172", "174", "258", "21"]}


def main(model: str, variant: str) -> None:
    """Prints what a client would send and see."""
    command = [
        sys.executable,
        "-m",
        "rbserve",
        "serve",
        "--model",
        model,
        "--variant",
        variant,
        "--port",
        "0",
    ]
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = next((line for line in server.stderr if line.startswith("serving ")), "")
            print(f"{line.strip()} (ready in {time.monotonic() - started:.1f} s)")
            address = re.search(r"http://\S+", line)
            if address is None:
                sys.exit("the server did not start")
            print(f"POST {address[0]}/v1/score {json.dumps(REQUEST)}")
            request = urllib.request.Request(
                f"{address[0]}/v1/score", json.dumps(REQUEST).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=10) as response:
                print(json.dumps(json.load(response), indent=2))
        finally:
            server.send_signal(signal.SIGTERM)
    print(f"the server drained and left with exit code {server.returncode}")
    sys.exit(server.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
