"""moeflux on many machines: replicas of its server under Ray Serve.

serve run moeflux_ray:app -- model=/models/Qwen3-30B-A3B replicas=3
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application

from moeflux_ray.ingress import Ingress
from moeflux_ray.replica import Replica
from moeflux_ray.settings import Settings
from moeflux_ray.sizes import parse_size

__all__ = ["Settings", "app"]

#: Seconds between health checks, and until one counts as failed.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0


def app(args: dict[str, Any]) -> Application:
    """The application that `args` describe; see :class:`Settings`.

    Raises:
        SettingsError: an argument that cannot be used.
    """
    settings = Settings.of(args)
    resources: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    if settings.memory is not None:
        resources["memory"] = parse_size(settings.memory)
    options: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        options = {
            "autoscaling_config": {
                "min_replicas": settings.min_replicas,
                "max_replicas": settings.max_replicas,
                "policy": {
                    "policy_function": "moeflux_ray.scaling:ScalingPolicy",
                    "policy_kwargs": {
                        "target_requests": settings.target_requests,
                        "target_tokens_s": settings.target_tokens_s,
                    },
                },
            }
        }
    router: dict[str, Any] = {
        "request_router_class": "moeflux_ray.router.PrefixRouter",
        "request_router_kwargs": {"imbalance": settings.imbalance},
    }
    replicas: Any = serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=settings.max_requests,
        ray_actor_options=resources,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.drain_s,
        request_router_config=RequestRouterConfig(**router),
        **options,
    )
    entrance: Any = serve.deployment(
        Ingress,
        name="Ingress",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    )
    application: Application = entrance.bind(replicas.bind(settings))
    return application
