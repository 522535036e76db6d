"""What an application may be told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from moeflux_ray.errors import SettingsError
from moeflux_ray.sizes import parse_size

#: Values of ``routing``.
ROUTINGS = ("prefix", "random")
#: Values that must be more than nothing.
ABOVE_ZERO = (
    "replicas",
    "max_requests",
    "cpus",
    "target_requests",
    "start_attempts",
    "start_timeout_s",
)


@dataclass(frozen=True)
class Settings:
    """Arguments of ``serve run moeflux_ray:app name=value ...`` and of a config file."""

    #: The model: a folder or GGUF file on every node, a name in the folder that ``MOEFLUX_MODELS``
    #: names there, or a repository to be pulled.
    model: str
    #: Replicas, if their number is fixed.
    replicas: int = 1
    #: The least and the most replicas; with them set, their number follows the load.
    min_replicas: int | None = None
    max_replicas: int | None = None
    #: Running and waiting requests of a replica at which another one is started.
    target_requests: float = 4.0
    #: Tokens a second of a replica at which another one is started, if that counts too.
    target_tokens_s: float | None = None
    #: Requests that a replica takes at once; more wait where they can still be sent elsewhere.
    max_requests: int = 16
    #: Seconds for which the load has to ask for more, or for fewer, replicas.
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    #: Processors of a replica; its server runs as many threads.
    cpus: float = 1.0
    #: Graphics processors of a replica.
    gpus: float = 0.0
    #: Memory of a replica, as ``--memory`` takes it; the machine's own bound if it is not given.
    memory: str | None = None
    #: Requests a replica may have beyond the idlest before a prefix counts for less than that.
    imbalance: int = 4
    #: How a replica is chosen: ``prefix``, or ``random`` to compare with.
    routing: str = "prefix"
    #: Whether nodes that are large enough may still come, as where Kubernetes adds them.
    wait_for_nodes: bool = False
    #: The address and port of Ray's head at which clients ask, unless Ray Serve runs already.
    host: str = "127.0.0.1"
    port: int = 8000
    #: Times that a replica is started before the application is said to have failed.
    start_attempts: int = 3
    #: Seconds that a server may take to start, model and all.
    start_timeout_s: float = 600.0
    #: Seconds that a replica's answers may take when it has to go.
    drain_s: float = 120.0
    #: Where models are pulled to and prefixes are kept, on every node.
    cache: str = "~/.cache/moeflux"
    #: Whether a pulled model is packed.
    pack: bool = False
    #: The server's program.
    binary: str = "moeflux"
    #: More flags for ``moeflux serve``.
    flags: str = ""

    @classmethod
    def of(cls, args: dict[str, Any]) -> Settings:
        """Settings from named texts or values.

        Raises:
            SettingsError: a name that is not known, a value that is not of its kind, or both bounds
                and a fixed number of replicas.
        """
        known = {field.name: str(field.type) for field in fields(cls)}
        for name in args:
            if name not in known:
                raise SettingsError(f"{name} is not known; known are {', '.join(known)}")
        if not args.get("model"):
            raise SettingsError("model is missing; write model=PATH or model=OWNER/NAME")
        values = {name: _value(name, known[name], value) for name, value in args.items()}
        settings = cls(**values)
        settings._check(args)
        return settings

    def _check(self, args: dict[str, Any]) -> None:
        for name in ABOVE_ZERO:
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is {getattr(self, name)}, but must be above 0")
        if self.routing not in ROUTINGS:
            known = " or ".join(ROUTINGS)
            raise SettingsError(f"routing is {self.routing!r}, but must be {known}")
        if not 0 < self.port < 1 << 16:
            raise SettingsError(f"port is {self.port}, but must be from 1 to 65535")
        if self.memory is not None:
            parse_size(self.memory)
        bounds = (self.min_replicas, self.max_replicas)
        if (bounds[0] is None) != (bounds[1] is None):
            raise SettingsError("min_replicas and max_replicas go together; give both or neither")
        if bounds[0] is not None and bounds[1] is not None:
            if "replicas" in args:
                raise SettingsError("replicas and min_replicas exclude each other; leave one out")
            if not 0 <= bounds[0] <= bounds[1] or bounds[1] < 1:
                raise SettingsError(
                    f"min_replicas {bounds[0]} to max_replicas {bounds[1]} is empty"
                )

    @property
    def cache_dir(self) -> Path:
        """The cache's folder on this node."""
        return Path(self.cache).expanduser()


def _value(name: str, kind: str, value: Any) -> Any:
    base = kind.split(" ")[0]
    try:
        if base == "bool":
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False}[str(value).lower()]
        if base == "int":
            if isinstance(value, float) and not value.is_integer():
                raise ValueError
            return int(value)
        if base == "float":
            return float(value)
        return str(value)
    except (KeyError, TypeError, ValueError):
        raise SettingsError(f"{name} is {value!r}, but must be of kind {base}") from None
