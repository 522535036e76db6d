"""A Ray cluster of several simulated nodes on this machine, and a client of what runs there."""

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import psutil
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

import moeflux_ray
from moeflux_ray.cluster import start_serve
from moeflux_ray.settings import Settings

#: Seconds after which a test gives up; nothing here should take a tenth of it.
PATIENCE_S = 240


@dataclass
class Reply:
    """What a client got."""

    status: int
    headers: dict
    body: bytes
    #: Of the client that asked, where a test has several.
    number: int = 0

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def replica(self):
        return self.headers["x-moeflux-replica"]

    def events(self):
        """The data of a stream's events, less the last one of OpenAI's."""
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


class LocalCluster:
    """A head and nodes of one processor each."""

    def __init__(self, home, binary, demo, nodes=3):
        self.home, self.binary, self.demo = home, binary, demo
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(nodes):
            self.add_node()
        ray.init(self.cluster.address, logging_level="error", log_to_driver=False)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = self.settings(port=self.port)
        start_serve(Settings.of(settings), settings)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        serve.shutdown()
        ray.shutdown()
        self.cluster.shutdown()

    def settings(self, **more):
        """Arguments of an application."""
        some = {"model": self.demo, "binary": self.binary, "memory": "256MiB", "drain_s": 30}
        return {**some, "cache": str(self.home / "cache"), **more}

    def add_node(self, **more):
        return self.cluster.add_node(**{"num_cpus": 1, **more})

    @contextlib.contextmanager
    def running(self, **more):
        """The application, while it is needed."""
        application = moeflux_ray.app(self.settings(**more))
        try:
            serve.run(application)
            until(lambda: self.chat(user("Hello"), max_tokens=1).status == 200, "there are answers")
            yield self
        finally:
            serve.delete("default")
            until(lambda: not self.servers(), "servers end with their replicas")

    def refusal(self, **more):
        """What is said of an application whose replicas do not start."""
        application = moeflux_ray.app(self.settings(start_attempts=1, **more))
        try:
            with pytest.raises(RuntimeError):
                serve.run(application)
            return serve.status().applications["default"].deployments["Replica"].message
        finally:
            serve.delete("default")

    def servers(self):
        """Processes of replicas' servers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words[:2] == [self.binary, "serve"] and str(self.home) in " ".join(words):
                    found.append(process)
        return found

    def ask(self, path, body):
        """A whole reply, of whatever status."""
        headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return Reply(reply.status, _headers(reply), reply.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, _headers(error), error.read())

    def chat(self, messages, **more):
        """A reply of OpenAI's chat."""
        return self.ask("/v1/chat/completions", {"messages": messages, **more})


def _headers(reply):
    return {name.lower(): value for name, value in reply.headers.items()}


def user(text):
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def until(condition, what):
    """Waits; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_S, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began
