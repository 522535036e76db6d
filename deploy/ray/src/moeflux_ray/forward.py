"""A request on its way from the ingress to a replica, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from moeflux_ray.prefix import Link


@dataclass
class Forward:
    """A request, as the router and a replica see it."""

    method: str
    #: Path and query.
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    #: What it begins with; see :func:`moeflux_ray.prefix.chain`.
    links: list[Link] = field(default_factory=list)
    #: Replicas that have failed with it.
    avoid: list[str] = field(default_factory=list)
    #: The replica that it was sent to last; the router writes it.
    asked: str | None = None
    #: Why each replica would be the one that is chosen; the router writes it.
    routes: dict[str, str] = field(default_factory=dict)


@dataclass
class Head:
    """The beginning of a reply; more bytes may follow."""

    status: int
    headers: list[tuple[str, str]]
    #: The replica that answers, and its node.
    replica: str
    node: str
    route: str
    #: The reply's first bytes; of a stream up to the first part of an answer, or a sign of life.
    first: bytes = b""
