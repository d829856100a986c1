"""The cluster of the tests marked `slurm`: started by the first of them, ended after the last test."""

import os
from collections.abc import Iterator

import pytest
from tests.slurm import settings as packages
from tests.slurm.cluster import Cluster

REQUIRED = os.environ.get("TOUCHLINE_REQUIRE_SLURM") == "1"
"""Set where a skip of these tests would hide something: by the project's own gate."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known where pytest starts in this folder only."""
    config.addinivalue_line("markers", "slurm: runs on a real SLURM, which needs root on Debian")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A SLURM, of two nodes for thorough tests; a test is skipped, with the reason, where there can be none."""
    why = packages.unavailable() or packages.install()
    if why is not None:
        told = f"no real SLURM here: {why}"
        if REQUIRED:
            pytest.fail(f"{told}; TOUCHLINE_REQUIRE_SLURM=1 does not let it be skipped", pytrace=False)
        pytest.skip(told)
    thorough = any(item.get_closest_marker("thorough") for item in request.session.items)
    with Cluster(nodes=2 if thorough else 1) as running:
        yield running
