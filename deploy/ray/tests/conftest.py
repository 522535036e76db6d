"""A Ray cluster of several nodes on this machine, with the demo model."""

import os
import shutil
from pathlib import Path

import pytest

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
