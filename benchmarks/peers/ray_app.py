"""Ray Serve: a replica a core. Tuned as docs.ray.io/en/latest/serve/advanced-guides/performance.html says."""

import signal

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.answering import CORES, FOLDER, PORT, answer, pipeline


@serve.deployment(
    num_replicas=CORES, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=2, health_check_timeout_s=86400
)
class Answering:
    def __init__(self) -> None:
        self.pipeline = pipeline()

    async def __call__(self, request: Request) -> Response:
        return Response(answer(self.pipeline, await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    # The proxy and the controller are actors too: without CPUs of their own, so that every core has a replica.
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        _temp_dir=str(FOLDER / "ray"),
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "access_log": False})
    serve.run(Answering.bind(), route_prefix="/answer")  # type: ignore[attr-defined]  # the decorator adds it
    signal.pause()
