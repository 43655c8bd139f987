"""Every error Fovea raises on purpose.

    FoveaError
    ├── UsageError            the caller asked for something that does not exist
    ├── UnreadableImage       the bytes are no picture that can be trusted
    ├── TrainingError         data, a checkpoint or a manifest does not fit the task
    ├── ExportError           a network cannot be turned into the graph its task declares
    │   └── ParityError       … or it can, but answers differently from its framework
    ├── ReleaseError          a release cannot be made, is not what it was, or was refused
    ├── ServerError           the embedded server cannot start or did not stay up
    └── RequestError          a request got no answer
        ├── ServerUnreachable     nothing listens there
        ├── ServerTimeout         the deadline passed
        ├── ServerBusy            the server refused for lack of room: try again
        ├── ServerRefused         the server answered with an error
        └── WrongModel            the server serves something else than the task declares

A message is one plain sentence: what was expected, what came, and the cure.
"""


class FoveaError(Exception):
    """The root of the tree: catch this to catch everything Fovea says on purpose."""


class UsageError(FoveaError):
    """A task, file or option that does not exist; programs exit with 2."""


class UnreadableImage(FoveaError):
    """Empty, truncated, corrupt, oversized or not a picture."""


class TrainingError(FoveaError):
    """Training data, a checkpoint or a manifest does not fit the task."""


class ExportError(FoveaError):
    """A network cannot be turned into the graph its task declares."""


class ParityError(ExportError):
    """The exported graph answers differently from the network in its framework."""


class ReleaseError(FoveaError):
    """A release cannot be made, is not what it was when it was made, or was refused; what is published stays."""


class ServerError(FoveaError):
    """The embedded server cannot start, or did not stay up."""


class RequestError(FoveaError):
    """A request got no answer."""


class ServerUnreachable(RequestError):
    """Nothing listens at the address."""


class ServerTimeout(RequestError):
    """The deadline passed before the answer came."""


class ServerBusy(RequestError):
    """The server had no room for the request; the same request may succeed later."""


class ServerRefused(RequestError):
    """The server answered with an error."""


class WrongModel(RequestError):
    """The server serves something else than the task declares."""
