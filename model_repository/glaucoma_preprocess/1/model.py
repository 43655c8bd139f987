"""Preprocessing of the ensemble: see fovea.backend."""

from fovea.backend import Preprocess as TritonPythonModel  # noqa: F401  (Triton looks for this name)
