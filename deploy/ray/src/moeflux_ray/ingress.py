"""What clients talk to.

It passes a request on, and asks another replica where one is lost too early for the client to
notice.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moeflux_ray.errors import ServerLostError
from moeflux_ray.events import Splitter, broken, has_content, is_comment, is_stream, refused
from moeflux_ray.forward import Forward, Head
from moeflux_ray.prefix import Link, chain

#: Attempts at a request.
ATTEMPTS = 3
#: What a lost replica looks like; Ray passes on what gRPC says unless that is "unavailable".
LOST = (RayActorError, ServerLostError, AioRpcError)
#: Seconds after which a client may ask again when all replicas are busy.
RETRY_AFTER_S = 5


class Lost(Exception):  # noqa: N818
    """No replica answered."""


class Ingress:
    """The application's entrance."""

    def __init__(self, replicas: DeploymentHandle[Any]) -> None:
        # By gRPC, without Ray's store of objects: a third less time to the first token.
        self._replicas = replicas.options(stream=True, _by_reference=False)
        self._lost = Counter(
            "moeflux_ray_lost",
            description="Replicas lost while they answered, by what became of the request",
            tag_keys=("then",),
        )

    async def __call__(self, request: Request) -> Response:
        """Answers a request."""
        body = await request.body()
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        forward = Forward(request.method, target, list(request.headers.items()), body, links(body))
        attempt = Attempts(self._replicas, forward, self._lost)
        try:
            head = await attempt.begin()
            headers = dict(head.headers) | attempt.told()
            if head.status == 200 and is_stream(head.headers):
                return StreamingResponse(attempt.events(), head.status, headers)
            whole = await attempt.whole()
            headers = dict(attempt.head.headers) | attempt.told()
            return Response(whole, attempt.head.status, headers)
        except Lost as error:
            return _refusal(target, str(error), "replica_lost", 503)
        except (BackPressureError, DeploymentUnavailableError) as error:
            return _refusal(target, str(error), "overloaded", 503)


def links(body: bytes) -> list[Link]:
    """The chain of a request's body; none for what is no JSON object."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return []
    return chain(parsed) if isinstance(parsed, dict) else []


def _refusal(target: str, message: str, code: str, status: int) -> Response:
    headers = {"content-type": "application/json", "retry-after": str(RETRY_AFTER_S)}
    return Response(refused(target, message, code), status, headers)


class Attempts:
    """A request, asked again while the client has got nothing of an answer."""

    head: Head

    def __init__(self, replicas: DeploymentHandle[Any], forward: Forward, lost: Counter) -> None:
        self._replicas = replicas
        self._forward = forward
        self._lost = lost
        self._attempts = 0
        self._stream: Any = None

    def told(self) -> dict[str, str]:
        """Headers that say who answers, and why."""
        return {
            "x-moeflux-replica": self.head.replica,
            "x-moeflux-node": self.head.node,
            "x-moeflux-route": self.head.route,
            "x-moeflux-attempts": str(self._attempts),
        }

    async def begin(self) -> Head:
        """Asks until there is a reply's head.

        Raises:
            Lost: there was none in so many attempts.
        """
        while True:
            self._attempts += 1
            self._stream = self._replicas.forward.remote(self._forward)
            try:
                self.head = await anext(self._stream)
                return self.head
            except LOST as error:
                self._again(error)

    def _again(self, error: Exception) -> None:
        """Takes note of a loss; the next attempt avoids who was lost."""
        self.cancel()
        if self._forward.asked is not None:
            self._forward.avoid.append(self._forward.asked)
        if self._attempts >= ATTEMPTS:
            self._lost.inc(tags={"then": "failed"})
            raise Lost(f"{self._attempts} replicas were lost one after another: {error}") from error
        self._lost.inc(tags={"then": "asked again"})

    async def whole(self) -> bytes:
        """A reply that is no stream."""
        while True:
            try:
                return b"".join([data async for data in self._bytes()])
            except LOST as error:
                self._again(error)
                await self.begin()

    async def events(self) -> AsyncIterator[bytes]:
        """A stream's events.

        What comes before the answer's first part is held back until that is there, so that another
        replica can begin anew.
        """
        began = False
        try:
            while True:
                held, splitter = b"", Splitter()
                try:
                    async for data in self._bytes():
                        ready = b""
                        for event in splitter.push(data):
                            began = began or has_content(event)
                            if began:
                                ready, held = ready + held + event, b""
                            elif is_comment(event):
                                ready += event
                            else:
                                held += event
                        if ready:
                            yield ready
                    yield held + splitter.end()
                    return
                except LOST as error:
                    if began:
                        self._lost.inc(tags={"then": "broke off"})
                        yield self._broken(error)
                        return
                    self._again(error)
                    await self._begin_stream()
        except (Lost, BackPressureError, DeploymentUnavailableError) as error:
            yield self._broken(error)
        finally:
            self.cancel()

    async def _bytes(self) -> AsyncIterator[bytes]:
        if self.head.first:
            yield self.head.first
        async for data in self._stream:
            yield data

    async def _begin_stream(self) -> None:
        head = await self.begin()
        if head.status != 200 or not is_stream(head.headers):
            text = (await self.whole()).decode(errors="replace")
            raise Lost(f"a replica was lost, and the next one refused: {text}")

    def _broken(self, error: Exception) -> bytes:
        return broken(self._forward.target, f"the answer broke off: {error}")

    def cancel(self) -> None:
        """Ends what a replica still does for this request."""
        if self._stream is not None:
            self._stream.cancel()
