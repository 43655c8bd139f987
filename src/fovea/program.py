"""How every program ends: exit 0 done, 1 failed, 2 wrong usage, 130 interrupted; one sentence, no traceback."""

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
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
