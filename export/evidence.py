"""What precision is judged on: `reports/<task>/evidence.npz`, written by `python -m training <task> --evaluate`."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from fovea.errors import ExportError
from fovea.spec import THRESHOLD, Task

Stack = npt.NDArray[np.uint8]  # [n, height, width, channels]


@dataclass(frozen=True)
class Evidence:
    """Pictures as the task's networks see them, uint8 `[n, side, side, 3]`: to calibrate on, and held out to judge on.

    `labels` are places in the task's labels; `truth` is 255 × the share of a pixel inside the mask, `inside` 1 in the
    field of view, both uint8 `[n, side, side]`, of `marked`.
    """

    calibration: Stack
    labelled: Stack
    labels: npt.NDArray[np.int64]
    marked: Stack
    truth: Stack
    inside: Stack

    def dice(self, levels: Stack) -> float:
        """Dice in the field of view, pooled over pictures, of masks uint8 `[n, side, side, 1]`."""
        seen = self.inside > 0
        found, true = (levels[..., 0] >= THRESHOLD) & seen, (self.truth >= THRESHOLD) & seen
        return 2 * int(np.sum(found & true)) / max(int(np.sum(found)) + int(np.sum(true)), 1)

    @property
    def pairs(self) -> int:
        """(With, without) pairs of pictures of the rarest class: AUC moves in steps of one over so many."""
        counts = np.unique(self.labels, return_counts=True)[1]
        return int(min(count * (len(self.labels) - count) for count in counts)) if len(counts) else 0

    def auc(self, probabilities: npt.NDArray[np.float32]) -> float:
        """Area under the ROC curve, averaged over one class against the rest, of `[n, classes]`."""
        classes = [place for place in range(probabilities.shape[1]) if np.sum(self.labels == place) > 0]
        return float(np.mean([roc_auc_score(self.labels == place, probabilities[:, place]) for place in classes]))


def load(task: Task, reports: Path, weights: Path) -> Evidence:
    """Read what training left, after checking that it is of the split that the weights were trained on.

    Raises:
        ExportError: the file is missing, damaged, of another image declaration, too small, or of another split.
    """
    path = reports / task.name / "evidence.npz"
    cure = f"python -m training {task.name} --evaluate DIR writes it"
    if not path.exists():
        raise ExportError(f"{path} is missing, and precision is judged on its pictures: {cure}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        digest, labels = str(arrays["manifest_sha256"]), arrays["labels"]
        calibration, labelled = arrays["calibration"], arrays["labelled"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path} cannot be read ({type(error).__name__}: {error}): {cure} anew.") from None
    none = np.empty((0, task.image.side, task.image.side), np.uint8)
    evidence = Evidence(
        calibration,
        labelled,
        labels,
        arrays.get("marked", none[..., None].repeat(3, axis=-1)),
        arrays.get("truth", none),
        arrays.get("inside", none),
    )
    expected = (task.image.side, task.image.side, 3)
    for stack in (evidence.calibration, evidence.labelled, evidence.marked):
        if stack.dtype != np.uint8 or stack.shape[1:] != expected:
            raise ExportError(
                f"{path} holds pictures {stack.dtype} {stack.shape[1:]}, and {task.name} sees uint8 {expected}: {cure} "
                "anew."
            )
    if not len(calibration) or len(np.unique(labels)) < 2 or (task.masks and not len(evidence.marked)):
        raise ExportError(
            f"{path} has {len(calibration)} training pictures, {len(labelled)} held-out ones of "
            f"{len(np.unique(labels))} classes and {len(evidence.marked)} with masks: too few to judge precision on."
        )
    for network in task.networks:
        record = weights / f"{network.name}.json"
        known = json.loads(record.read_text(encoding="utf-8"))["data"]["manifest_sha256"] if record.exists() else digest
        if known != digest:
            raise ExportError(
                f"{path} is of another split than the one {record} was trained on: its held-out pictures may have been "
                f"trained on; {cure} for these weights."
            )
    return evidence
