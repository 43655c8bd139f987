"""What a server says of its tasks, asked once and compared with what this client declares."""

import asyncio

from fovea.errors import UsageError, WrongModel
from fovea.spec import Task
from fovea.transport import Description, Transport


class Descriptions:
    """Of one server; use it from one event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: dict[str, Description] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def of(self, transport: Transport, task: Task, release: str | None) -> Description:
        """The server is asked before the first request only.

        Raises:
            WrongModel: it serves something else than the task declares.
        """
        model = model_name(task, release)
        if model in self._known:
            return self._known[model]
        async with self._asking.setdefault(model, asyncio.Lock()):
            if model not in self._known:
                try:
                    description = await transport.describe(model)
                except WrongModel:  # also when another release was published between the questions that this asks
                    description = await transport.describe(model)
                self._compare(task, description)
                self._known[model] = description
            return self._known[model]

    async def of_version(self, transport: Transport, task: Task, version: str) -> Description:
        """Of the release that answered, which is another one than was there before: its thresholds count."""
        self._known.pop(task.name, None)
        description = await self.of(transport, task, None)
        return description if description.version == version else await self.of(transport, task, version)

    def threshold(self, task: Task, description: Description, name: str | None) -> tuple[str, float] | None:
        """The named threshold that the server stores with the model, or `UsageError` naming those there are."""
        if name is None:
            return None
        points = description.operating_points
        if name not in points:
            known = f"choose from {', '.join(points)}" if points else "it stores none; leave it out"
            raise UsageError(f"{self.url} has no operating point {name!r} for {task.name}: {known}.")
        return name, points[name]

    def _compare(self, task: Task, description: Description) -> None:
        found, labels = description.tensors, description.labels
        declared = {tensor.name: (tensor.dtype, tensor.shape) for tensor in task.outputs}
        if found != declared:
            wrong = sorted(n for n in found.keys() | declared.keys() if found.get(n) != declared.get(n))
            raise WrongModel(
                f"{self.url} serves another {task.name} than this client declares (different: {', '.join(wrong)}): "
                "use the client that came with the server's release."
            )
        if labels != task.labels:
            raise WrongModel(
                f"{self.url} answers {task.name} with the classes {', '.join(labels)}, but this client declares "
                f"{', '.join(task.labels)}: use the client that came with the server's release."
            )


def model_name(task: Task, release: str | None) -> str:
    """What Triton calls the published release of a task, or a given one."""
    return task.name if release is None else f"{task.name}-{release}"
