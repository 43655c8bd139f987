"""How every program ends: exit 0 done, 1 failed, 2 wrong usage, 130 interrupted; one sentence, no traceback."""

import os
import sys
from collections.abc import Callable

from fovea.errors import FoveaError, UsageError


def run(program: Callable[[], int], interrupted: str = "Stopped.") -> int:
    """The exit code of `program`; what it raises on purpose, and Ctrl-C, become a sentence on standard error."""
    try:
        return program()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except FoveaError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone, as in `… | head`: like a program ended by SIGPIPE, and what is still
        # buffered must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
