"""moeflux on many machines: replicas of its server under Ray Serve.

serve run moeflux_ray:app -- model=/models/Qwen3-30B-A3B replicas=3
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.deployment import Application

__all__ = ["app"]


def app(args: dict[str, Any]) -> Application:
    """The application that `args` describe; see :class:`moeflux_ray.settings.Settings`.

    Raises:
        ImportError: Ray is not installed.
        SettingsError: an argument that cannot be used.
        PlacementError: no node is large enough.
        PortError: the port at which clients ask is taken.
    """
    require_ray()
    from moeflux_ray.application import build

    return build(args)


def require_ray() -> None:
    """Says what to do where Ray is absent.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray.data
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"node {socket.gethostname()}: Ray is not installed ({error}); "
            "run `pip install ./deploy/ray` there, with the Python that you start"
        ) from error
