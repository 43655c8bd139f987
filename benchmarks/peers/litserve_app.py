"""LitServe: a worker a core, as its `workers_per_device` advises for CPUs, and its ZeroMQ queue for high throughput."""

from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.peers.answering import CORES, PORT, answer, pipeline


class Answering(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.pipeline = pipeline()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def predict(self, encoded: bytes) -> bytes:
        return answer(self.pipeline, encoded)

    def encode_response(self, output: bytes) -> Any:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(
        Answering(api_path="/answer"),
        accelerator="cpu",
        devices=1,
        workers_per_device=CORES,
        fast_queue=True,
        timeout=False,
    )
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False, access_log=False)
