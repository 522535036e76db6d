"""A replica's server: the ``moeflux serve`` process on its node."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from moeflux_ray.errors import BinaryError, StartError
from moeflux_ray.settings import Settings

#: The version of the program that this package goes with, as far as it matters.
VERSION = "0.2"
#: The server says where it listens.
ADDRESS = re.compile(r"http://([^/\s]+)/")
#: Ends the process of its argument as soon as whoever holds its standard input is gone, however
#: that went.
WATCH = 'read -r _; kill -9 "$1"'
#: Asks servers of this machine: by no proxy, whatever the environment says.
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
#: The status of its replies when it is about to end.
STOPPING = 503
#: Last lines of a server that are told when it fails.
LINES = 20


def find_binary(name: str) -> str:
    """The program's path on this node.

    Raises:
        BinaryError: it is not there, does not run, or is of another version.
    """
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise BinaryError(
            f"there is no program {name}",
            "install moeflux there or give its path by binary=PATH",
        )
    try:
        asked = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BinaryError(f"{found} does not run: {error}", "install it again") from error
    said = asked.stdout.strip()
    match = re.fullmatch(r"moeflux (\d+\.\d+)\.\S+", said)
    if match is None or match[1] != VERSION:
        raise BinaryError(
            f"{found} is {said or 'something else'}, and this package goes with {VERSION}",
            f"install moeflux {VERSION} there, or the package of that version",
        )
    return found


def command(binary: str, model: Path, settings: Settings, prefixes: Path) -> list[str]:
    """The command that serves `model`, with a folder for the state of prefixes."""
    flags = ["--host", "127.0.0.1", "--port", "0", "--served-name", settings.model]
    flags += ["--threads", str(max(1, int(settings.cpus)))]
    flags += ["--grace", str(int(settings.drain_s))]
    if settings.gpus > 0:
        flags += ["--device", "gpu"]
    if settings.memory is not None:
        flags += ["--memory", settings.memory]
    flags += ["--prefix-cache-dir", str(prefixes)]
    return [binary, "serve", "--model", str(model), *flags, *shlex.split(settings.flags)]


class Server:
    """A running server. Its address is that of the loopback, at a port that was free."""

    def __init__(self, words: list[str], start_timeout_s: float) -> None:
        """Starts it and waits until it answers.

        Raises:
            StartError: it ended, or took too long; with its last lines.
        """
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES)
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._watch = subprocess.Popen(
            ["sh", "-c", WATCH, "watch", str(self.process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._address: str | None = None
        self._told = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + start_timeout_s
        try:
            self._wait(deadline, start_timeout_s)
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        stream = self.process.stderr
        if stream is None:
            return
        for line in stream:
            self._lines.append(line.rstrip())
            match = ADDRESS.search(line)
            if match is not None and self._address is None:
                self._address = match[1]
                self._told.set()
        self._told.set()

    def _wait(self, deadline: float, timeout_s: float) -> None:
        self._told.wait(max(0.0, deadline - time.monotonic()))
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self._reader.join(timeout=5)
                raise StartError(
                    f"the server ended with status {self.process.returncode}: {self.last_lines()}",
                    "see what it says; `moeflux serve` with the same flags shows it there",
                )
            if self._address is not None and self.is_healthy():
                return
            time.sleep(0.02)
        raise StartError(
            f"the server did not start within {timeout_s:g} s: {self.last_lines()}",
            "give it longer by start_timeout_s=SECONDS",
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._address}"

    def last_lines(self) -> str:
        """What it said last."""
        return " | ".join(self._lines) or "it said nothing"

    def is_healthy(self, timeout_s: float = 5.0) -> bool:
        """Whether it lives and says so."""
        if self.process.poll() is not None:
            return False
        try:
            with LOOPBACK.open(f"{self.url}/health", timeout=timeout_s) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self, grace_s: float) -> None:
        """Lets it finish or save what runs, and ends it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """Ends it at once, if it has not ended yet."""
        self._watch.kill()
        self._watch.wait()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    async def stop_soon(self, grace_s: float) -> None:
        """The same as :meth:`stop`, for those who must not wait."""
        await asyncio.to_thread(self.stop, grace_s)
