"""What many tests share: pictures, the real server, the real photographs where they are."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fovea import phantoms
from fovea.server import Server

ROOT = Path(__file__).parent.parent
REPOSITORY = ROOT / "model_repository"


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """One encoded phantom."""
    return phantoms.fundus(3).encoded()


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Six encoded phantoms."""
    return [phantoms.fundus(seed).encoded() for seed in range(6)]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The real server with every task."""
    with Server(REPOSITORY) as server:
        yield server


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photographs; without it the tests that need it are skipped, and say so."""
    folder = Path(os.environ.get("FOVEA_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real photographs: set FOVEA_DATA to their folder")
    return folder
