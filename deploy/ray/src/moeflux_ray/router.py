"""Sends a conversation to the replica that has computed its beginning."""

from __future__ import annotations

import random
from collections import Counter as Tally
from typing import Any

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)
from ray.util.metrics import Counter

from moeflux_ray.forward import Forward
from moeflux_ray.prefix import PrefixIndex, choose


class PrefixRouter(RequestRouter):
    """Prefers who holds the longest prefix, unless that replica is too busy."""

    def initialize_state(self, imbalance: int = 4, routing: str = "prefix", **_: Any) -> None:
        """`imbalance`: requests beyond the idlest that a holder may have."""
        self._imbalance = imbalance
        self._is_random = routing == "random"
        self._index = PrefixIndex()
        # Ray's own count of what a replica runs is forgotten after some seconds.
        self._running: Tally[str] = Tally()
        self._decisions = Counter(
            "moeflux_ray_routed",
            description="Requests by why their replica was chosen",
            tag_keys=("route",),
        )

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each, the best first."""
        forward = _forward(pending_request)
        avoid = set(forward.avoid) if forward else set()
        able = {_name(replica.replica_id): replica for replica in candidate_replicas}
        # A replica that failed is asked again only where there is no other.
        able = {name: r for name, r in able.items() if name not in avoid} or able
        order = self._order(able, forward)
        if forward:
            forward.routes = order
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[able[name]] for name in order]

    def _order(self, able: dict[str, RunningReplica], forward: Forward | None) -> dict[str, str]:
        if self._is_random:
            return dict.fromkeys(random.sample(list(able), len(able)), "random")
        queues = {name: self._running[name] for name in able}
        holders = self._index.holders(forward.links) if forward else {}
        return choose(holders, queues, self._index.sizes, self._imbalance)

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Counts what a replica has to do."""
        super().on_send_request(replica_id)
        self._running[_name(replica_id)] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """The request has ended, one way or another."""
        super().on_request_completed(replica_id, internal_request_id)
        name = _name(replica_id)
        self._running[name] = max(0, self._running[name] - 1)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        """Notes who holds what from now on."""
        forward = _forward(pending_request)
        if forward:
            name = _name(replica_id)
            forward.asked = name
            self._index.note(forward.links, name)
            self._decisions.inc(tags={"route": forward.routes.get(name, "queue")})

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forgets what replicas held that are no longer there."""
        gone = set(self.curr_replicas) - {replica.replica_id for replica in replicas}
        super().update_replicas(replicas)
        for replica_id in gone:
            self._forget(_name(replica_id))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forgets what a replica held."""
        super().on_replica_actor_died(replica_id)
        self._forget(_name(replica_id))

    def _forget(self, name: str) -> None:
        self._index.forget(name)
        del self._running[name]


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)


def _forward(pending: PendingRequest | None) -> Forward | None:
    if pending is None:
        return None
    found = (arg for arg in pending.args if isinstance(arg, Forward))
    return next(found, None)
