"""What a node needs before a replica starts there, brought there once for all its replicas."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moeflux_ray.errors import ModelError
from moeflux_ray.settings import Settings

#: A repository's name, as the hub has it.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def prepare(binary: str, settings: Settings) -> Path:
    """The model's path on this node, by its path or its name under ``MOEFLUX_MODELS``; a repository
    is pulled if it is not there yet.

    Raises:
        ModelError: there is no such folder and no such repository, or the download failed.
    """
    path = Path(settings.model).expanduser()
    named = Path(os.environ.get("MOEFLUX_MODELS", "models")) / path
    for there in (path, named):
        if there.exists():
            return there.absolute()
    if path.is_absolute() or not REPOSITORY.fullmatch(settings.model):
        raise ModelError(
            f"there is no model {settings.model}",
            "put it at the same path on every node or into its folder of MOEFLUX_MODELS, or "
            "write model=OWNER/NAME to have it pulled",
        )
    name = settings.model.replace("/", "--") + ("--packed" if settings.pack else "")
    folder = settings.cache_dir / "models" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    whole = folder.with_name(name + ".whole")
    with _locked(folder.with_name(name + ".lock")):
        if not (whole.exists() and folder.exists()):
            _pull(binary, settings, folder)
            whole.touch()
    return folder


def _pull(binary: str, settings: Settings, folder: Path) -> None:
    # The program checks each file against the hub's checksum, and what it packs as well; what an
    # earlier try has brought is not brought again.
    words = [binary, "pull", settings.model, "--output", str(folder)]
    words += ["--pack"] if settings.pack else []
    pulled = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if pulled.returncode != 0:
        raise ModelError(
            f"{settings.model} could not be pulled: {pulled.stderr.strip()}",
            "mend that, or put the model there by hand and give its path",
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class PrefixFolder:
    """A folder for a server's state of prefixes, of this replica alone as long as it lives.

    It is the first one of the node that nobody has, so that a replica finds what the one before it
    has left.
    """

    def __init__(self, settings: Settings) -> None:
        which = hashlib.blake2b(settings.model.encode(), digest_size=6).hexdigest()
        above = settings.cache_dir / "prefix"
        above.mkdir(parents=True, exist_ok=True)
        for index in itertools.count():
            self.path = above / f"{which}-{index}"
            mine = _claimed(above / f"{which}-{index}.lock")
            if mine is None:
                continue
            # A server whose replica was killed may live on for a moment.
            servers = self.path / "lock"
            left = _claimed(servers) if servers.exists() else None
            if left is not None or not servers.exists():
                self._mine = mine
                if left is not None:
                    left.close()
                return
            mine.close()


def _claimed(path: Path) -> IO[str] | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
