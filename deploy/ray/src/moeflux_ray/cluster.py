"""What can be said of a cluster before anything is started on it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from moeflux_ray.errors import PlacementError, PortError, SettingsError
from moeflux_ray.settings import Settings
from moeflux_ray.sizes import parse_size


def resources(settings: Settings) -> dict[str, float]:
    """What a replica takes of its node, by Ray's names."""
    wanted = {"CPU": settings.cpus, "GPU": settings.gpus}
    if settings.memory is not None:
        wanted["memory"] = float(parse_size(settings.memory))
    return wanted


def check_nodes(settings: Settings) -> None:
    """Looks for a node that can hold a replica; Ray would wait for one without an end.

    Raises:
        PlacementError: there is none; it names each node and what that lacks.
    """
    if settings.wait_for_nodes:
        return
    wanted = resources(settings)
    lacks = []
    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    for node in nodes():
        if not node["Alive"]:
            continue
        there = node["Resources"]
        less = [name for name, amount in wanted.items() if there.get(name, 0.0) < amount]
        if not less:
            return
        told = ", ".join(_told(name, there.get(name, 0.0)) for name in less)
        lacks.append(f"{node['NodeManagerHostname']} ({node['NodeID'][:12]}) has {told}")
    asked = ", ".join(_told(name, amount) for name, amount in wanted.items() if amount)
    raise PlacementError(
        f"no node can hold a replica, which takes {asked}: {'; '.join(lacks)}",
        "ask for less by cpus=, gpus= or memory=, add such a node, or say wait_for_nodes=true",
    )


def _told(name: str, amount: float) -> str:
    return f"memory {amount / (1 << 30):.2f}GiB" if name == "memory" else f"{name} {amount:g}"


def start_serve(settings: Settings, args: dict[str, Any]) -> None:
    """Starts Ray Serve, listening on the head, if it does not run yet.

    Raises:
        PortError: something else listens there.
        SettingsError: an address is given, but Serve runs already.
    """
    if is_serve_running():
        given = [name for name in ("host", "port") if name in args]
        if given:
            raise SettingsError(
                f"{given[0]} is given, but Ray Serve runs already; leave it out, or say it in the "
                "config's http_options"
            )
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise PortError(
                f"port {settings.port} at {settings.host} cannot be had: {error.strerror}",
                "end what listens there, or choose another one by port=PORT",
            ) from error
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=settings.host, port=settings.port),
    )


def is_serve_running() -> bool:
    """Whether the cluster has Ray Serve."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True
