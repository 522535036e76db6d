"""Sends a conversation to the replica that has computed its beginning."""

from __future__ import annotations

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

    def initialize_state(self, imbalance: int = 4, **_: Any) -> None:
        """`imbalance`: requests beyond the idlest that a holder may have."""
        self._imbalance = imbalance
        self._index = PrefixIndex()
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
        able = {str(r.replica_id.unique_id): r for r in candidate_replicas}
        # A replica that failed is asked again only where there is no other.
        able = {name: r for name, r in able.items() if name not in avoid} or able
        queues = {name: self._queue(replica) for name, replica in able.items()}
        holders = self._index.holders(forward.links) if forward else {}
        order, route = choose(holders, queues, self._imbalance)
        if forward:
            forward.route = route
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        return [[able[name]] for name in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: object
    ) -> None:
        """Notes who holds what from now on."""
        forward = _forward(pending_request)
        if forward:
            self._index.note(forward.links, str(replica_id.unique_id))
            self._decisions.inc(tags={"route": forward.route})

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forgets what a replica held."""
        super().on_replica_actor_died(replica_id)
        self._index.forget(str(replica_id.unique_id))

    def _queue(self, replica: RunningReplica) -> int:
        known = self.replica_queue_len_cache.get(replica.replica_id)
        return 0 if known is None else int(known)


def _forward(pending: PendingRequest | None) -> Forward | None:
    if pending is None:
        return None
    found = (arg for arg in pending.args if isinstance(arg, Forward))
    return next(found, None)
