"""Synthetic pictures of every modality, described by anatomical signs: for tests, demonstrations and benchmarks.

Each is drawn from a seed. Anatomy, camera, lesions and noise have a random stream each, so the same seed with other
signs is the same patient before the same camera.
"""

from fovea.phantoms import artery, disc, glomerulus, oct
from fovea.phantoms.eye import Phantom, Signs, fundus
from fovea.phantoms.plane import file
from fovea.spec import Modality

__all__ = ["Phantom", "Shown", "Signs", "artery", "disc", "drawn", "encoded", "fundus", "glomerulus", "oct", "suffix"]

Shown = Signs | disc.Signs | oct.Signs | glomerulus.Signs | artery.Signs
"""Which signs are drawn also says which kind of picture."""


def drawn(seed: int, signs: Shown) -> bytes:
    """The phantom of that seed with these signs as a file: PNG for a glomerulus, otherwise JPEG."""
    match signs:
        case Signs():
            return fundus(seed, signs).encoded()
        case disc.Signs():
            return file(disc.crop(seed, signs))
        case oct.Signs():
            return file(oct.scan(seed, signs))
        case glomerulus.Signs():
            return file(glomerulus.section(seed, signs))
        case artery.Signs():
            return file(artery.angiogram(seed, signs))


def suffix(modality: Modality) -> str:
    """The ending of the files that `drawn` and `encoded` make."""
    return "png" if modality == "glomerulus" else "jpg"


def encoded(modality: Modality, seed: int) -> bytes:
    """A file of that modality: a healthy fundus; of the others, even seeds are healthy and odd ones ill."""
    ill = seed % 2 == 1
    match modality:
        case "fundus":
            return drawn(seed, Signs())
        case "disc":
            return drawn(seed, disc.Signs(cup=0.8 if ill else 0.3))
        case "oct":
            found = oct.Signs(bumps=8), oct.Signs(membrane=0.9, fluid=0.8), oct.Signs(cysts=12)
            return drawn(seed, found[seed // 2 % 3] if ill else oct.Signs())
        case "glomerulus":
            return drawn(seed, glomerulus.Signs(sclerosis=0.95 if ill else 0.0))
        case "artery":
            return drawn(seed, artery.Signs(stenosis=0.75 if ill else 0.0))
