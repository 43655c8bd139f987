"""Libraries that talk to their own developers on our users' terminal, made to keep it to themselves."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_stderr() -> Iterator[None]:
    """Discard what C++ code writes to standard error meanwhile; Python's own errors are raised as ever.

    TensorFlow announces its settings on import, before any of its log levels is read.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
