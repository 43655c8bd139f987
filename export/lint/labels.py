"""Label files: one line for each element of the output they name."""

from collections import Counter
from collections.abc import Iterator

from export.lint.configs import count
from export.lint.finding import Finding, listed
from export.lint.folders import NAME_INSIDE
from export.lint.models import Config, Model, contents, inside

LABEL_BYTES = 2**24


def check(model: Model, config: Config) -> Iterator[Finding]:
    for i, output in enumerate(config.message.output):
        if not output.label_filename:
            continue
        place, path = f"output[{i}].label_filename", f"{model.name}/{output.label_filename}"
        if not inside(output.label_filename):
            said = f"{output.label_filename!r} is no file in {model.name}/."
            yield config.finding("path-outside", place, said, NAME_INSIDE)
            continue
        content = contents(model.folder / output.label_filename, LABEL_BYTES)
        if isinstance(content, str):
            missing = not (model.folder / output.label_filename).exists()
            said = f"{path} is missing, and Triton does not load the model without it." if missing else content
            rule = "labels-missing" if missing else "file-unreadable"
            yield config.finding(rule, place, said, "Put one label a line there, or take label_filename out.")
            continue
        labels = content.decode("utf-8", "replace").splitlines()
        elements = count(output.dims)
        if elements is not None and output.dims and len(labels) != elements:
            said = f"{path} has {len(labels)} labels, and {output.name} has {elements} elements."
            yield config.finding("label-count", place, said, "Write as many labels, in the order of the output.")
        for number, label in enumerate(labels, 1):
            if not label.strip():
                said = f"Line {number} is empty: element {number - 1} of {output.name} then has no name."
                yield Finding("label-blank", path, output.name, said, "Name it, or take the line out.", number)
        twice = [label for label, times in Counter(labels).items() if times > 1 and label.strip()]
        if twice:
            said = f"{listed(twice)} stands more than once: answers cannot be told apart."
            where = len(labels) - labels[::-1].index(twice[0])
            yield Finding("label-duplicate", path, output.name, said, "Give each class its own label.", where)
