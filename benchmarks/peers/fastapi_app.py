"""FastAPI on uvicorn. `FASTAPI_THREADS` requests are answered at a time in each worker process.

A plain `def` endpoint runs on the thread pool (fastapi.tiangolo.com/async), whose size is that of the engines
(starlette.io/threadpool): ONNX Runtime, OpenVINO and OpenCV release the interpreter's lock while they compute.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Annotated

from anyio import to_thread
from fastapi import Body, FastAPI, Response

from benchmarks.peers.answering import answer, pipeline
from fovea.engines import Pipeline

THREADS = int(os.environ["FASTAPI_THREADS"])
IDLE: SimpleQueue[Pipeline] = SimpleQueue()


@asynccontextmanager
async def engines(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    for _ in range(THREADS):
        IDLE.put(pipeline())
    yield


app = FastAPI(lifespan=engines)


@app.post("/answer")
def ask(encoded: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Response:
    made = IDLE.get()
    try:
        return Response(answer(made, encoded), media_type="application/octet-stream")
    finally:
        IDLE.put(made)
