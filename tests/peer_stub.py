"""A peer on the standard library, for tests: rightly answering, or with the fault that its first argument names.

    answers   POST /answer as every peer
    dies      at its start, with a sentence
    lies      its first answer is right, the others are those to another picture
    falls     ends at the thirtieth request

A child in a session of its own, as Ray and BentoML have, sleeps beside it.
"""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

from benchmarks.peers.answering import CORES, PORT, answer, pipeline
from fovea.engines import Pipeline

MODE = sys.argv[1]
IDLE: SimpleQueue[Pipeline] = SimpleQueue()
ASKED: list[bytes] = []


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        encoded = self.rfile.read(int(self.headers["Content-Length"]))
        ASKED.append(encoded)
        if MODE == "falls" and len(ASKED) == 30:
            os._exit(1)
        made = IDLE.get()
        body = answer(made, ASKED[0] if MODE == "lies" else encoded)
        IDLE.put(made)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    if MODE == "dies":
        sys.exit("no licence was found")
    for _ in range(CORES):
        IDLE.put(pipeline())
    ThreadingHTTPServer(("127.0.0.1", PORT), Answering).serve_forever()
