"""A model's files on a node, brought there once for all its replicas."""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moeflux_ray.errors import ModelError
from moeflux_ray.settings import Settings

#: A repository's name, as the hub has it.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def prepare(binary: str, settings: Settings) -> Path:
    """The model's path on this node; a repository is pulled if it is not there yet.

    Raises:
        ModelError: there is no such folder and no such repository, or the download failed.
    """
    path = Path(settings.model).expanduser()
    if path.exists():
        return path
    if path.is_absolute() or not REPOSITORY.fullmatch(settings.model):
        raise ModelError(
            f"there is no model {settings.model}",
            "put it at the same path on every node, or write model=OWNER/NAME to have it pulled",
        )
    folder = settings.cache_dir / "models" / settings.model.replace("/", "--")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock")):
        # What is there is verified, so the second replica of a node finds it complete.
        words = [binary, "pull", settings.model, "--output", str(folder)]
        words += ["--pack"] if settings.pack else []
        pulled = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if pulled.returncode != 0:
            raise ModelError(
                f"{settings.model} could not be pulled: {pulled.stderr.strip()}",
                "mend that, or put the model there by hand and give its path",
            )
    return folder


def replica_name(index: int, settings: Settings) -> str:
    """A name that one replica of a node at a time has, the same after a restart."""
    which = hashlib.blake2b(settings.model.encode(), digest_size=6).hexdigest()
    return f"{which}-{index}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
