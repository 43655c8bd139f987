"""The whole task in one hop: see fovea.fused."""

from fovea.fused import Fused as TritonPythonModel  # noqa: F401  (Triton looks for this name)
