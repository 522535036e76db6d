"""Offline batches: ``python -m moeflux_ray.batch IN.jsonl OUT.jsonl model=...``.

Input and output have OpenAI's batch format. Requests go to servers of their own, one a worker, in
parts of a few; each part's answers are a file of their own in ``OUT.jsonl.parts`` until all are
there. A run that was killed goes on with the parts that are missing, so no request is lost and none
is answered twice in the output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from moeflux_ray import require_ray
from moeflux_ray.errors import MoefluxRayError, SettingsError
from moeflux_ray.settings import Settings

#: Requests of a part: what a killed run may have to answer again.
PART_REQUESTS = 32
#: Times that a part is tried where its server ends.
ATTEMPTS = 3
#: Where a batch's requests may go.
URLS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})


class BatchError(Exception):
    """An input that cannot be used, or parts of another one."""


@dataclass(frozen=True)
class Line:
    """A request of the input."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The requests of a file.

    Raises:
        BatchError: a line that is no request, or a name that comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchError(f"{path} cannot be read: {error}") from error
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        line = _line(path, number, raw)
        if line.custom_id in seen:
            raise BatchError(
                f"{path}, line {number}: custom_id {line.custom_id!r} is that of line "
                f"{seen[line.custom_id]} too; give each request its own"
            )
        seen[line.custom_id] = number
        lines.append(line)
    if not lines:
        raise BatchError(f"{path} has no requests")
    return lines


def _line(path: Path, number: int, raw: str) -> Line:
    where = f"{path}, line {number}"
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise BatchError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BatchError(f"{where} is no object")
    name, url, body = value.get("custom_id"), value.get("url"), value.get("body")
    if not isinstance(name, str) or not name:
        raise BatchError(f"{where}: custom_id is missing")
    if value.get("method", "POST") != "POST" or url not in URLS:
        raise BatchError(f"{where}: only POST to {', '.join(sorted(URLS))}; url is {url!r}")
    if not isinstance(body, dict):
        raise BatchError(f"{where}: body is missing")
    if body.get("stream"):
        raise BatchError(f"{where}: stream is set; a batch has whole replies")
    return Line(name, url, with_seed(name, body))


def with_seed(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body with a seed, so that a part that is answered again is answered the same."""
    if "seed" in body:
        return body
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).digest()
    return {**body, "seed": int.from_bytes(digest, "big")}


class Parts:
    """The answered parts of a batch, each a file that is there whole or not at all."""

    def __init__(self, out: Path, lines: list[Line], settings: Settings) -> None:
        """Opens or makes the folder.

        Raises:
            BatchError: it holds parts of another input, model or flags.
        """
        self.lines = lines
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        model = [settings.model, settings.pack, settings.gpus > 0, settings.flags]
        told = json.dumps([PART_REQUESTS, *model, [asdict(line) for line in lines]])
        identity = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark = self.folder / "batch"
        if self._mark.exists() and self._mark.read_text() != identity:
            raise BatchError(
                f"{self.folder} holds parts of another input, model or flags; remove it to "
                "begin anew"
            )
        write_whole(self._mark, identity)

    def __len__(self) -> int:
        return -(-len(self.lines) // PART_REQUESTS)

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"{part:08}.jsonl"

    def requests(self, part: int) -> list[Line]:
        """The requests of a part."""
        return self.lines[part * PART_REQUESTS : (part + 1) * PART_REQUESTS]

    def missing(self) -> list[int]:
        """Parts that have no file yet."""
        return [part for part in range(len(self)) if not self.path(part).exists()]

    def join(self) -> None:
        """Makes the output of all parts, in the input's order, and removes them."""
        texts = (self.path(part).read_text(encoding="utf-8") for part in range(len(self)))
        write_whole(self.out, "".join(texts))
        # The mark last: parts without it would be taken for those of any input.
        for path in sorted(self.folder.iterdir(), key=lambda path: path == self._mark):
            path.unlink()
        self.folder.rmdir()


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all, whenever the machine stops."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def answer(url: str, line: Line) -> dict[str, Any]:
    """One line of the output: the reply of the server at `url`, or its refusal.

    Raises:
        OSError: the server ends, or has ended.
    """
    from moeflux_ray.server import LOOPBACK, STOPPING

    body = json.dumps(line.body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url + line.url, body, headers)
    try:
        with LOOPBACK.open(request) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        if error.code == STOPPING:
            raise ConnectionError(f"{url} is about to end") from None
        status, text = error.code, error.read()
    name = hashlib.blake2b(line.custom_id.encode(errors="surrogatepass"), digest_size=8)
    response = {
        "status_code": status,
        "request_id": f"req_{name.hexdigest()}",
        "body": json.loads(text),
    }
    return {
        "id": f"batch_req_{name.hexdigest()}",
        "custom_id": line.custom_id,
        "response": response,
        "error": None,
    }


class Worker:
    """A server of its own, and as many requests at once as it computes together."""

    def __init__(self, settings: Settings) -> None:
        from moeflux_ray.prepare import PrefixFolder, prepare
        from moeflux_ray.server import Server, command, find_binary

        binary = find_binary(settings.binary)
        self._folder = PrefixFolder(settings)
        words = command(binary, prepare(binary, settings), settings, self._folder.path)
        self._start = partial(Server, words, settings.start_timeout_s)
        self._server = self._start()
        self._pool = ThreadPoolExecutor(settings.max_requests)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answers a part.

        Raises:
            StartError: the server ended, and does not start again.
            OSError: the server ended each time.
        """
        lines = [Line(**line) for line in json.loads(row["lines"])]
        for attempt in range(ATTEMPTS):
            try:
                told = list(self._pool.map(lambda line: answer(self._server.url, line), lines))
                break
            except (OSError, HTTPException):
                self._server.kill()
                if attempt + 1 == ATTEMPTS:
                    raise
                self._server = self._start()
        text = "".join(json.dumps(one) + "\n" for one in told)
        return {"part": row["part"], "text": text}


def run(parts: Parts, settings: Settings, progress: Callable[[int, int], None]) -> None:
    """Answers what is missing, over Ray Data, and joins the parts.

    Raises:
        PlacementError: no node is large enough.
    """
    import ray.data

    from moeflux_ray.cluster import check_nodes, resources

    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    check_nodes(settings)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    done, missing = len(parts.lines), parts.missing()
    done -= sum(len(parts.requests(part)) for part in missing)
    progress(done, len(parts.lines))
    rows = [
        {
            "part": part,
            "lines": json.dumps([asdict(line) for line in parts.requests(part)]),
        }
        for part in missing
    ]
    if rows:
        wanted = resources(settings)
        data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
        data = data.map(
            Worker,
            fn_constructor_args=(settings,),
            compute=ray.data.ActorPoolStrategy(size=min(settings.replicas, len(rows))),
            num_cpus=wanted["CPU"],
            num_gpus=wanted["GPU"],
            memory=wanted.get("memory"),
        )
        for row in data.iter_rows():
            part = int(row["part"])
            write_whole(parts.path(part), row["text"])
            done += len(parts.requests(part))
            progress(done, len(parts.lines))
    parts.join()


def arguments(words: list[str]) -> tuple[Path, Path, Settings]:
    """Input, output and settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m moeflux_ray.batch", description="Answers a file of requests."
    )
    parser.add_argument("input", type=Path, help="requests in OpenAI's batch format")
    parser.add_argument("output", type=Path, help="the answers, in the input's order")
    parser.add_argument("settings", nargs="+", metavar="NAME=VALUE", help="as for moeflux_ray:app")
    found = parser.parse_args(words)
    return found.input, found.output, Settings.of(dict(_pairs(found.settings)))


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(f"{word!r} is no NAME=VALUE")
        yield name, value


def main(words: list[str]) -> int:
    """The command; its status: 2 for what it was told wrong, 1 for what went wrong."""

    def progress(done: int, all_: int) -> None:
        print(f"{done} of {all_} requests", file=sys.stderr, flush=True)

    try:
        require_ray()
        source, out, settings = arguments(words)
        run(Parts(out, read_lines(source), settings), settings, progress)
    except (BatchError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ImportError, MoefluxRayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ConnectionError as error:
        print(f"error: no cluster answers: {error}; see RAY_ADDRESS", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {told(error)}; what is done is kept: start it again", file=sys.stderr)
        return 1
    return 0


def told(error: BaseException) -> str:
    """What a worker raised, out of what Ray made of it."""
    ours = re.findall(r"moeflux_ray\.errors\.\w+: (.*)", str(error))
    return ours[-1] if ours else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
