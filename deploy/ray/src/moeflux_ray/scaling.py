"""How many replicas there should be: by the requests that run and wait, and by tokens a second."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

#: What a replica tells Ray of itself.
TOKENS_A_SECOND = "tokens_a_second"


class ScalingPolicy:
    """The larger number of the two: requests over their target, tokens a second over theirs."""

    def __init__(self, target_requests: float, target_tokens_s: float | None) -> None:
        self._target_requests = target_requests
        self._target_tokens_s = target_tokens_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas; Ray keeps it within its bounds and changes it by and by."""
        wanted = float(context.total_num_requests) / self._target_requests
        told = (context.aggregated_metrics or {}).get(TOKENS_A_SECOND, {})
        if self._target_tokens_s is not None:
            wanted = max(wanted, sum(told.values()) / self._target_tokens_s)
        return wanted, {}


class Rate:
    """The growth of a counter, a second."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def of(self, value: float, now_s: float) -> float:
        """The rate since the last look; 0 at the first one, and where the counter began anew."""
        last, self._last = self._last, (value, now_s)
        if last is None or value < last[0] or now_s <= last[1]:
            return 0.0
        return (value - last[0]) / (now_s - last[1])
