"""LitServe with dynamic batching: ``CHECKPOINT DEVICE PORT`` in, the same requests and answers.

``POST /predict`` takes what ``POST /v1/score`` takes: ``{"images": [base64]}`` of one crop.
"""

# No postponed annotations: LitServe reads that of a request.

import base64
import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from fertiray.bench.peers import Network, pixels

TOGETHER, TIMEOUT_S = 8, 0.01  # as the examples of its documentation have it


class Api(litserve.LitAPI):
    """Labels of crops."""

    def setup(self, device: str) -> None:
        """Loads the network."""
        self.network = Network(sys.argv[1], device)

    def decode_request(self, request: dict[str, Any]) -> NDArray[np.float32]:
        """The crop of a request."""
        (image,) = request["images"]
        return pixels(base64.b64decode(image), self.network.meta.preprocessing)

    def batch(self, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The crops of several requests."""
        return np.stack(inputs)

    def predict(self, batch: NDArray[np.float32]) -> list[str]:
        """Their labels."""
        return self.network(batch)

    def unbatch(self, output: list[str]) -> list[str]:
        """A label for each request."""
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        """The answer."""
        return {"label": output}


if __name__ == "__main__":
    kind = "cuda" if sys.argv[2].startswith("cuda") else "cpu"
    api = Api(max_batch_size=TOGETHER, batch_timeout=TIMEOUT_S)
    server = litserve.LitServer(api, accelerator=kind, devices=1)
    server.run(host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False)
