"""The application: replicas of the server, and the entrance before them."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application

from moeflux_ray.cluster import check_nodes, resources, start_serve
from moeflux_ray.ingress import Ingress
from moeflux_ray.replica import Replica
from moeflux_ray.settings import Settings

#: Seconds between health checks, and until one counts as failed.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0
#: Requests that the entrance has at once.
MOST_REQUESTS = 1000
#: The entrance lives where Ray's head does: any other node may go.
HEAD = {"node:__internal_head__": 0.001}


def build(args: dict[str, Any]) -> Application:
    """The application that `args` describe.

    Raises:
        SettingsError: an argument that cannot be used.
        PlacementError: no node is large enough.
        PortError: the port at which clients ask is taken.
    """
    settings = Settings.of(args)
    if ray.is_initialized():
        check_nodes(settings)
        start_serve(settings, args)
    router: dict[str, Any] = {
        "request_router_class": "moeflux_ray.router.PrefixRouter",
        "request_router_kwargs": {"imbalance": settings.imbalance, "routing": settings.routing},
    }
    replicas: Any = serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=settings.max_requests,
        ray_actor_options=_actor_options(settings),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.drain_s,
        max_constructor_retry_count=settings.start_attempts,
        request_router_config=RequestRouterConfig(**router),
        **_number(settings),
    )
    entrance: Any = serve.deployment(
        Ingress,
        name="Ingress",
        max_ongoing_requests=MOST_REQUESTS,
        ray_actor_options={"num_cpus": 0, "resources": HEAD},
    )
    application: Application = entrance.bind(replicas.bind(settings))
    return application


def _actor_options(settings: Settings) -> dict[str, Any]:
    wanted = resources(settings)
    options: dict[str, Any] = {"num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"]}
    if "memory" in wanted:
        options["memory"] = wanted["memory"]
    return options


def _number(settings: Settings) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    policy = {
        "policy_function": "moeflux_ray.scaling:ScalingPolicy",
        "policy_kwargs": {
            "target_requests": settings.target_requests,
            "target_tokens_s": settings.target_tokens_s,
        },
    }
    return {
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
            "look_back_period_s": min(30.0, max(11.0, settings.upscale_delay_s)),
            "policy": policy,
        }
    }
