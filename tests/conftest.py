"""What many tests share: pictures, the real server, the real photographs where they are."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_stores import Command, Result, labelled
from wire_mongodb import WireMongoDB, serving

from export import releasing
from fovea import phantoms
from fovea.server import Server
from training import store

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


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port that is ours and refuses connections: bound, never listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six small pictures of two labels and two patients."""
    return labelled(tmp_path / "pictures")


@pytest.fixture
def store_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, standard output and standard error of the command line."""

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["store", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = store.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return command


@pytest.fixture
def wire() -> Iterator[WireMongoDB]:
    with serving() as server:
        yield server


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, standard output and standard error of `python -m export release|rollback|list`."""

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        capsys.readouterr()
        code = releasing.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`test_segmenter.py` runs first and `test_precision.py` last.

    Once OpenVINO has computed on several threads in a process, a Ctrl-C in a PyTorch training of the same process
    (which only tests have) ends it with a segmentation fault in native code; the other way round all is well.
    """
    items.sort(key=lambda item: (item.path.name != "test_segmenter.py", item.path.name == "test_precision.py"))
