"""A replica: a server of its own on its node, to which requests are passed on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import aiohttp
from ray import serve

from moeflux_ray.errors import ServerLostError, node_name
from moeflux_ray.events import is_opening, is_stream
from moeflux_ray.forward import Forward, Head
from moeflux_ray.metrics import Reporter
from moeflux_ray.prepare import PrefixFolder, prepare
from moeflux_ray.scaling import TOKENS_A_SECOND
from moeflux_ray.server import STOPPING, Server, command, find_binary
from moeflux_ray.settings import Settings

#: Headers that belong to one connection only.
HOP = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

#: Parts of a reply that are passed on as they come; after them, a part has what came within so
#: many seconds, so that many tokens a second are not as many messages.
AT_ONCE, GATHER_S = 8, 0.04


class Replica:
    """Starts the server and passes requests on to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        context = serve.get_replica_context()
        self._name = str(context.replica_id.unique_id)
        self._node = node_name()
        binary = find_binary(settings.binary)
        model = prepare(binary, settings)
        self._folder = PrefixFolder(settings)
        words = command(binary, model, settings, self._folder.path)
        self._server = Server(words, settings.start_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._reporter = Reporter(self._server.url, self._name)

    def session(self) -> aiohttp.ClientSession:
        """Connections to the server."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
            self._reporter.start(self._session)
        return self._session

    async def forward(self, request: Forward) -> AsyncIterator[Head | bytes]:
        """The reply: its head, then its bytes as they come.

        Raises:
            ServerLostError: the server ended before the reply did.
        """
        headers = [(name, value) for name, value in request.headers if name.lower() not in HOP]
        try:
            async with self.session().request(
                request.method,
                self._server.url + request.target,
                headers=headers,
                data=request.body or None,
            ) as reply:
                if reply.status == STOPPING:
                    raise ServerLostError(
                        f"the server of replica {self._name} is about to end", "ask again"
                    )
                kept = [(k, v) for k, v in reply.headers.items() if k.lower() not in HOP]
                route = request.routes.get(self._name, "queue")
                first = await _first(reply.content, is_stream(kept))
                yield Head(reply.status, kept, self._name, self._node, route, first)
                async for data in _gathered(reply.content):
                    yield data
        except aiohttp.ClientError as error:
            raise ServerLostError(
                f"the server of replica {self._name} broke off: {error}; it said: "
                f"{self._server.last_lines()}",
                "the replica is replaced; ask again",
            ) from error

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray: what :class:`moeflux_ray.scaling.ScalingPolicy` goes by."""
        self.session()
        return {TOKENS_A_SECOND: self._reporter.tokens_a_second}

    async def check_health(self) -> None:
        """Asked by Ray; a replica that fails is replaced.

        Raises:
            ServerLostError: the server is gone or does not answer.
        """
        if not await asyncio.to_thread(self._server.is_healthy):
            raise ServerLostError(
                f"the server does not answer: {self._server.last_lines()}",
                "the replica is replaced",
            )

    async def __del__(self) -> None:
        """What runs is done by now; the server writes what it keeps, and ends."""
        server = getattr(self, "_server", None)
        if server is not None:
            await server.stop_soon(self._settings.drain_s)
        session = getattr(self, "_session", None)
        if session is not None:
            with contextlib.suppress(Exception):
                await session.close()


async def _first(content: aiohttp.StreamReader, streams: bool) -> bytes:
    """The first bytes, so many that they are worth a message."""
    first = data = await content.readany()
    while streams and data and is_opening(first):
        data = await content.readany()
        first += data
    return first


async def _gathered(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    passed, last_s = 0, 0.0
    while True:
        if passed >= AT_ONCE:
            await asyncio.sleep(last_s + GATHER_S - time.monotonic())
        data = await content.readany()
        if not data:
            return
        passed, last_s = passed + 1, time.monotonic()
        yield data
