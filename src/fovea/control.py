"""Triton's model control, over HTTP: models of a running server are loaded, loaded again and taken out of service."""

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

from fovea.errors import ReleaseError, ServerTimeout, UsageError
from fovea.transport import unreachable


def load(url: str, model: str, timeout_s: float) -> None:
    """Load a model, or load it again if its folder has a later time than when it was loaded.

    Raises:
        ReleaseError: the server refused; it goes on as it was.
    """
    _ask(url, f"/v2/repository/models/{quote(model)}/load", timeout_s)


def unload(url: str, model: str, timeout_s: float) -> None:
    """Take a model out of service; returns before the requests in flight have been answered, as they will be."""
    _ask(url, f"/v2/repository/models/{quote(model)}/unload", timeout_s)


def loaded(url: str, timeout_s: float) -> dict[str, str]:
    """Model → version, of all that answer."""
    index = _ask(url, "/v2/repository/index", timeout_s)
    return {entry["name"]: entry["version"] for entry in index if entry.get("state") == "READY"}


def instances(url: str, model: str, timeout_s: float) -> int:
    """How many instances of a model there should be; 0 if it is not in service."""
    try:
        config = _ask(url, f"/v2/models/{quote(model)}/config", timeout_s, "GET")
    except ReleaseError:
        return 0
    return sum(int(group["count"]) * max(len(group["gpus"]), 1) for group in config["instance_group"])


def _ask(url: str, path: str, timeout_s: float, method: str = "POST") -> Any:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise UsageError(f"{url!r} is no HTTP address of a server: write http://host:8000.")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        value = json.loads(text) if text else None
    except TimeoutError:
        raise ServerTimeout(
            f"The server at {url} did not answer within {timeout_s:g} s: it may be loading (give it longer with "
            "--timeout) or hung (end it, or start it again)."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, str(error)) from None
    except ValueError:
        raise ReleaseError(f"What answers at {url} is no Triton server: check the address.") from None
    finally:
        connection.close()
    if response.status != 200:
        raise ReleaseError(f"The server at {url} refused: {_reason(value)}.")
    return value


def _reason(said: Any) -> str:
    """The first cause in what Triton said."""
    text = str(said.get("error", said)) if isinstance(said, dict) else str(said)
    if "explicit model load / unload is not allowed" in text:
        return "it serves a repository that cannot be switched; start it with --releases"
    cause = text.split("TritonModelException: ")[-1].split("\n")[0]
    return cause.strip(" ;.")
