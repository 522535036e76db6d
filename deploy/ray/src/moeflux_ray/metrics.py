"""Passes a server's figures on to Ray."""

from __future__ import annotations

import asyncio
import re
import time

import aiohttp
from ray.util.metrics import Gauge

from moeflux_ray.scaling import Rate

#: Seconds between looks.
EVERY_S = 5.0
#: A line of Prometheus' text without labels.
LINE = re.compile(r"^(moeflux_\w+) (\S+)$", re.M)
#: What is passed on: a server's metric and what it says.
METRICS = {
    "moeflux_generated_tokens_total": "Tokens generated since the replica's start",
    "moeflux_prompt_tokens_total": "Prompt tokens computed since the replica's start",
    "moeflux_answers_running": "Answers being computed",
    "moeflux_answers_waiting": "Answers that wait",
    "moeflux_expert_hits_total": "Experts found in memory since the replica's start",
    "moeflux_expert_misses_total": "Experts that had to be read since the replica's start",
    "moeflux_expert_bytes_read_total": "Bytes of experts read since the replica's start",
    "moeflux_prefix_hits_total": "Requests whose beginning was known",
    "moeflux_prefix_misses_total": "Requests whose beginning was not known",
}


class Reporter:
    """Looks at a server's metrics while its replica lives."""

    def __init__(self, url: str, replica: str) -> None:
        self._url = url
        self._tags = {"moeflux_replica": replica}
        self._gauges = {
            name: Gauge(f"ray_{name}", description=what, tag_keys=("moeflux_replica",))
            for name, what in METRICS.items()
        }
        self._rate = Rate()
        self.tokens_a_second = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, session: aiohttp.ClientSession) -> None:
        """Begins to look, on the running event loop."""
        self._task = asyncio.create_task(self._run(session))

    async def _run(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.get(f"{self._url}/metrics") as reply:
                    self.report(await reply.text())
            except aiohttp.ClientError:
                # The health check says what is wrong.
                pass
            await asyncio.sleep(EVERY_S)

    def report(self, text: str) -> None:
        """Passes the figures of one look on."""
        for name, value in LINE.findall(text):
            if name == "moeflux_generated_tokens_total":
                self.tokens_a_second = self._rate.of(float(value), time.monotonic())
            if name in self._gauges:
                self._gauges[name].set(float(value), tags=self._tags)
