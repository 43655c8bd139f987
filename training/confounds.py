"""How much of the class can be told without looking at the retina: the border ring, a thumbnail, the set's name.

Public four-class data join one source per class, so a classifier may learn the camera. These probes say how far that
alone would carry it: the classifier's own figure means something only above them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from fovea.spec import Image
from training.datasets import content
from training.splits import Entry

Features = npt.NDArray[np.float64]

RING_FROM = 0.94
"""The ring begins at this share of the field of view's radius: no disc, no macula, hardly a vessel."""
SECTORS = 8
THUMBNAIL = 16


def measure(
    labels: Sequence[str], image: Image, trained: Sequence[Entry], judged: Sequence[Entry], seed: int
) -> dict[str, Features]:
    """Train each probe on the labelled photographs of `trained` and let it answer on those of `judged`.

    Returns:
        Under the name of what the probe sees, its probabilities `[len(judged), len(labels)]`.

    Raises:
        TrainingError: fewer than two classes to train on, or an unreadable photograph.
    """
    if len({entry.sample.label for entry in trained}) < 2:
        raise TrainingError(
            "The confound probes need training photographs of at least two classes, and the "
            f"{len(trained)} labelled ones found have fewer: judge the whole folder that training used."
        )
    pictures = [_picture(entry, image) for entry in (*trained, *judged)]
    sets = sorted({entry.sample.dataset for entry in trained})
    named = [[float(entry.sample.dataset == name) for name in sets] for entry in (*trained, *judged)]
    features = {
        "thumbnail": np.stack([thumbnail(picture) for picture in pictures]),
    }
    if len(sets) > 1:
        features |= {"data set's name": np.array(named)}
    if image.crop == "field_of_view":  # other pictures have no ring around them
        features |= {"border ring": np.stack([ring(picture) for picture in pictures])}
    targets = [str(entry.sample.label) for entry in trained]
    count = len(trained)
    return {seen: probe(labels, rows[:count], targets, rows[count:], seed) for seen, rows in features.items()}


def probe(labels: Sequence[str], features: Features, targets: Sequence[str], judged: Features, seed: int) -> Features:
    """Probabilities `[len(judged), len(labels)]` of a balanced logistic regression on standardised features.

    A label without a training photograph gets probability 0.
    """
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000, random_state=seed)
    )
    model.fit(features, targets)
    answers: Features = np.zeros((len(judged), len(labels)))
    answers[:, [labels.index(label) for label in model.classes_]] = model.predict_proba(judged)
    return answers


def ring(picture: pixels.Picture) -> Features:
    """The outer ring's colours (mean RGB of each of `SECTORS` sectors, deviation) and the field of view's shape."""
    side = picture.shape[0]
    inside = pixels.lit_disc(picture)
    # The picture's own edge ends the field of view too: many cameras cut the disc at top and bottom.
    depth = cv2.distanceTransform(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
    rows, columns = np.nonzero((inside == 1) & (depth[1:-1, 1:-1] <= (1 - RING_FROM) * side / 2))
    colours = picture[rows, columns].astype(np.float64)  # [ring pixels, 3]
    angle = np.arctan2(rows + 0.5 - side / 2, columns + 0.5 - side / 2) / (2 * np.pi) + 0.5
    sector = np.minimum((angle * SECTORS).astype(np.int64), SECTORS - 1)
    # A sector without a ring pixel (only odd shapes have one) takes the whole ring's mean.
    parts = [colours[sector == index] if index in sector else colours for index in range(SECTORS)]
    means = [part.mean(axis=0) for part in parts]
    shape = pixels.resize(inside * np.uint8(255), THUMBNAIL)
    features: Features = np.concatenate([np.ravel(means), colours.std(axis=0), shape.ravel()])
    return features


def thumbnail(picture: pixels.Picture) -> Features:
    """The picture in 16×16 RGB pixels: colour and illumination, no lesion."""
    return np.ravel(pixels.resize(picture, THUMBNAIL)).astype(np.float64)


def _picture(entry: Entry, image: Image) -> pixels.Picture:
    try:
        return pixels.preprocess(content(entry.sample.path), image)[0]
    except UnreadableImage as error:
        raise TrainingError(f"{entry.sample.path}: {error}") from None
