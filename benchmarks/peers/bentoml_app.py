"""BentoML: a worker a core, as its page on workers says for what the CPU limits; root input, raw bytes out."""

from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.answering import CORES, answer, pipeline

Binary = ContentType("application/octet-stream")


@bentoml.service(workers=CORES, threads=1, traffic={"timeout": 300}, metrics={"enabled": False})
class Answering:
    def __init__(self) -> None:
        self.pipeline = pipeline()

    @bentoml.api(route="/answer")
    def ask(self, encoded: Annotated[bytes, Binary], /) -> Annotated[bytes, Binary]:
        return answer(self.pipeline, encoded)
