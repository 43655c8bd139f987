"""What a running server holds: memory, shared memory, threads and descriptors, of tritonserver and its stubs."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from fovea.errors import ServerError
from fovea.server import Server

SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Footprint:
    """Sums over tritonserver and the Python processes behind it.

    `rss_mib` counts pages that several of them map once each, `pss_mib` counts them once in all.
    """

    rss_mib: float
    pss_mib: float
    shm_mib: float
    threads: int
    descriptors: int


def footprint(server: Server) -> Footprint:
    """What it holds now.

    Raises:
        ServerError: it has ended, or one of its Python processes has died.
    """
    server.check()
    try:
        triton = psutil.Process(server.pid)
        family = [triton, *triton.children(recursive=True)]
        memory = [process.memory_full_info() for process in family]
        threads = sum(process.num_threads() for process in family)
        descriptors = sum(process.num_fds() for process in family)
    except (psutil.NoSuchProcess, IndexError):
        raise ServerError("The server has ended while it was measured: see its log, and measure again.") from None
    # Blocks, not lengths: a region is as long as it may grow, and takes only what was written.
    regions = [region.stat().st_blocks * 512 for region in SHARED.glob(f"{server.log.parent.name}*")]
    return Footprint(
        rss_mib=round(sum(used.rss for used in memory) / 2**20, 2),
        pss_mib=round(sum(used.pss for used in memory) / 2**20, 2),
        shm_mib=round(sum(regions) / 2**20, 2),
        threads=threads,
        descriptors=descriptors,
    )
