"""A request on its way from the ingress to a replica, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Forward:
    """A request, as the router and a replica see it."""

    method: str
    #: Path and query.
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    #: What it begins with; see :func:`moeflux_ray.prefix.chain`.
    links: list[int] = field(default_factory=list)
    #: Replicas that have failed with it.
    avoid: list[str] = field(default_factory=list)
    #: Why the replica was chosen; the router writes it.
    route: str = "queue"


@dataclass
class Head:
    """The beginning of a reply; bytes follow."""

    status: int
    headers: list[tuple[str, str]]
    #: The replica that answers, and its node.
    replica: str
    node: str
    route: str
