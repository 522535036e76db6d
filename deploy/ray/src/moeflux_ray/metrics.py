"""Passes a server's figures on to Ray."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import aiohttp
from ray.util.metrics import Counter, Gauge

from moeflux_ray.scaling import Rate

#: Seconds between looks.
EVERY_S = 5.0
#: A line of Prometheus' text without labels.
LINE = re.compile(r"^(moeflux_\w+) (\S+)$", re.M)
#: What is passed on: a server's metric and what it says. Ray puts ``ray_`` before the names.
METRICS = {
    "moeflux_generated_tokens_total": "Tokens generated",
    "moeflux_prompt_tokens_total": "Prompt tokens computed",
    "moeflux_answers_running": "Answers being computed",
    "moeflux_answers_waiting": "Answers that wait",
    "moeflux_expert_hits_total": "Experts found in memory",
    "moeflux_expert_misses_total": "Experts that had to be read",
    "moeflux_expert_bytes_read_total": "Bytes of experts read",
    "moeflux_prefix_hits_total": "Requests whose beginning was known",
    "moeflux_prefix_misses_total": "Requests whose beginning was not known",
    "moeflux_prefix_tokens_total": "Prompt tokens that were known",
    "moeflux_prefix_written_bytes_total": "Bytes of prefixes spilled to the folder",
}
#: What tells the tokens a second.
TOKENS = "moeflux_generated_tokens_total"


class Reporter:
    """Looks at a server's metrics while its replica lives."""

    def __init__(self, url: str, replica: str) -> None:
        self._url = url
        self._tags = {"moeflux_replica": replica}
        self._metrics = {name: _metric(name, what) for name, what in METRICS.items()}
        self._last: dict[str, float] = {}
        self._rate = Rate()
        self.tokens_a_second = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, session: aiohttp.ClientSession) -> None:
        """Begins to look, on the running event loop."""
        self._task = asyncio.create_task(self._run(session))

    async def _run(self, session: aiohttp.ClientSession) -> None:
        while True:
            # The health check says what is wrong if there is no answer.
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{self._url}/metrics") as reply:
                    self.report(await reply.text())
            await asyncio.sleep(EVERY_S)

    def report(self, text: str) -> None:
        """Passes the figures of one look on."""
        for name, told in LINE.findall(text):
            value = float(told)
            if name == TOKENS:
                self.tokens_a_second = self._rate.of(value, time.monotonic())
            metric = self._metrics.get(name)
            if isinstance(metric, Gauge):
                metric.set(value, tags=self._tags)
            elif metric is not None and value > self._last.get(name, 0.0):
                metric.inc(value - self._last.get(name, 0.0), tags=self._tags)
                self._last[name] = value


def _metric(name: str, what: str) -> Counter | Gauge:
    counted = name.removesuffix("_total")
    kind = Gauge if counted == name else Counter
    return kind(counted, description=what, tag_keys=("moeflux_replica",))
