"""What can go wrong, with the node it went wrong on and what to do about it."""

from __future__ import annotations

import socket


def node_name() -> str:
    """The node that asks, as its people and as Ray know it."""
    try:
        import ray

        if ray.is_initialized():
            return f"{socket.gethostname()} (Ray's {ray.get_runtime_context().get_node_id()[:12]})"
    except ImportError:
        pass
    return socket.gethostname()


class MoefluxRayError(Exception):
    """An error that names its node and the next action."""

    def __init__(self, problem: str, action: str, node: str | None = None) -> None:
        self.problem = problem
        self.action = action
        self.node = node or node_name()
        super().__init__(f"node {self.node}: {problem}; {action}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Errors travel between processes."""
        return type(self), (self.problem, self.action, self.node)


class BinaryError(MoefluxRayError):
    """The server's program is missing, or of another version."""


class ModelError(MoefluxRayError):
    """The model is not on the node and cannot be brought there."""


class StartError(MoefluxRayError):
    """The server did not start."""


class ServerLostError(MoefluxRayError):
    """The server ended while it answered."""


class PlacementError(MoefluxRayError):
    """No node has what a replica needs."""


class PortError(MoefluxRayError):
    """The port at which clients ask is taken."""


class SettingsError(ValueError):
    """An argument that cannot be used."""
