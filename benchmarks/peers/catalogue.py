"""The peers: how each is installed, started and asked. Why each is set so stands in docs/peers.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

REQUIREMENTS = Path(__file__).parent / "requirements"
APPS = "benchmarks.peers"


@dataclass(frozen=True)
class Peer:
    """One way to serve.

    Attributes:
        environment: names its requirements file, and the folder of its virtual environment, which several may share.
        packages: whose versions stand beside its figures.
        arguments: of its environment's python. {ports[0]} is where it is asked, {ports[1]} to {ports[5]} are free ones,
            {cores} is how many cores there are, {folder} is a folder of its own.
        variables: set for it, filled in likewise.
        pipelines: how many it has, all cores shared among them; one a core where nothing is said.
        speaks: "http": picture as the body, all outputs as raw bytes; "v2": the V2 protocol over gRPC, the same bytes
            as one tensor; "json": label and masks, of the networks in their own framework.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    pipelines: int | None = None
    speaks: Literal["http", "v2", "json"] = "http"

    @property
    def requirements(self) -> Path:
        return REQUIREMENTS / f"{self.environment}.txt"

    @property
    def own_networks(self) -> bool:
        """Whether it runs the frameworks' networks, not our graphs: its answers are nearly ours."""
        return self.speaks == "json"

    def versions(self) -> dict[str, str]:
        """Those of `packages`, as its requirements pin them."""
        lines = self.requirements.read_text(encoding="utf-8").splitlines()
        pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name: pinned[name] for name in self.packages}


def _uvicorn(processes: str) -> tuple[str, ...]:
    options = ("--host", "127.0.0.1", "--port", "{ports[0]}", "--workers", processes)
    return ("-m", "uvicorn", f"{APPS}.fastapi_app:app", *options, "--no-access-log", "--log-level", "warning")


HOURS_MS = str(24 * 3600 * 1000)
FASTAPI = ("fastapi", "uvicorn")
PEERS = (
    Peer("FastAPI, processes", "fastapi", FASTAPI, _uvicorn("{cores}"), {"FASTAPI_THREADS": "1"}),
    Peer("FastAPI, threads", "fastapi", FASTAPI, _uvicorn("1"), {"FASTAPI_THREADS": "{cores}"}),
    Peer("FastAPI, one engine", "fastapi", FASTAPI, _uvicorn("1"), {"FASTAPI_THREADS": "1"}, pipelines=1),
    Peer("LitServe", "litserve", ("litserve",), ("-m", f"{APPS}.litserve_app")),
    Peer(
        "BentoML",
        "bentoml",
        ("bentoml",),
        ("-m", "bentoml", "serve", f"{APPS}.bentoml_app:Answering", "--host", "127.0.0.1", "--port", "{ports[0]}"),
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "MLServer",
        "mlserver",
        ("mlserver",),
        ("-c", "from mlserver.cli import main; main()", "start", "."),
        {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_GRPC_PORT": "{ports[0]}",
            "MLSERVER_HTTP_PORT": "{ports[1]}",
            "MLSERVER_METRICS_PORT": "{ports[2]}",
            "MLSERVER_PARALLEL_WORKERS": "{cores}",
            "MLSERVER_DEBUG": "false",
            "MLSERVER_MODEL_NAME": "task",
            "MLSERVER_MODEL_IMPLEMENTATION": f"{APPS}.mlserver_app.Answering",
        },
        speaks="v2",
    ),
    Peer(
        "Ray Serve",
        "ray",
        ("ray",),
        ("-m", f"{APPS}.ray_app"),
        {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": "{cores}",
            "RAY_SERVE_HAPROXY_STATS_PORT": "{ports[1]}",
            "RAY_SERVE_HAPROXY_METRICS_PORT": "{ports[2]}",
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{folder}/metrics.sock",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/haproxy.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{folder}/haproxy",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{folder}/haproxy/state",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": "{ports[3]}",
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": "{ports[4]}",
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "{ports[5]}",  # of the replicas, up from it
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "65535",
            # It stands still while others are measured, and must not take itself for dead afterwards.
            "RAY_health_check_failure_threshold": "1000000",
            "RAY_health_check_timeout_ms": HOURS_MS,
            "RAY_grpc_keepalive_timeout_ms": HOURS_MS,
            "RAY_grpc_client_keepalive_timeout_ms": HOURS_MS,
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "86400",
        },
    ),
    Peer(
        "Flask",
        "flask",
        ("flask", "torch", "keras", "tensorflow-cpu"),
        ("-m", f"{APPS}.flask_app"),
        {"TF_CPP_MIN_LOG_LEVEL": "2"},
        pipelines=1,
        speaks="json",
    ),
)
