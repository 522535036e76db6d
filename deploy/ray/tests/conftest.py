"""The program, the demo model, and a Ray cluster of several nodes on this machine."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from local_cluster import LocalCluster

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def binary():
    """The server's program: MOEFLUX, or what was built here."""
    built = os.environ.get("MOEFLUX") or str(REPOSITORY / "target/release/moeflux")
    found = shutil.which(built)
    assert found, f"there is no {built}; build it with `cargo build --release`"
    return found


@pytest.fixture(scope="session")
def demo():
    """The demo model's folder."""
    return str(REPOSITORY / "models/demo")


@pytest.fixture(scope="session")
def cluster(binary, demo):
    """A head that runs the entrance, and three nodes with a place for a replica each."""
    # Not in pytest's own folder, whose long path sockets cannot have.
    home = tempfile.mkdtemp(prefix="moeflux-ray-")
    cluster = LocalCluster(Path(home), binary, demo)
    yield cluster
    cluster.close()
    shutil.rmtree(home, ignore_errors=True)
