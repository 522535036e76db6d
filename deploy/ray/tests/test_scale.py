"""Replicas that come with the load and go with it, under load."""

import threading
from concurrent.futures import ThreadPoolExecutor

from local_cluster import until, user

#: As quick as it gets, so that a test need not wait.
QUICK = {"min_replicas": 1, "upscale_delay_s": 0.5, "downscale_delay_s": 2}
TOKENS = 3000
LONG = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


class Asking:
    """Clients that ask over and over, until they need no longer."""

    def __init__(self, cluster, clients, **body):
        self.replicas = set()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._run, cluster, n, body) for n in range(clients)]

    def _run(self, cluster, number, body):
        replies = []
        while not self._stop.is_set():
            reply = cluster.chat(user(f"Tell me story {number} about a fox."), **body)
            reply.number = number
            replies.append(reply)
            self.replicas.add(reply.headers.get("x-moeflux-replica"))
        return replies

    def stop(self):
        """All replies that there were."""
        self._stop.set()
        return [reply for client in self._clients for reply in client.result()]


def text(reply):
    return reply.json["choices"][0]["message"]["content"]


def prefixes(cluster):
    """Files in which servers have left what they knew."""
    files = (cluster.home / "scale" / "prefix").rglob("*")
    return {path for path in files if path.is_file() and "lock" not in path.name}


def test_replicas_follow_requests_and_go_without_breaking_an_answer(cluster):
    asked = {**QUICK, "max_replicas": 2, "target_requests": 5, "cache": cluster.home / "scale"}
    # Spread evenly, whoever knows the beginning.
    asked["imbalance"] = 0
    with cluster.running(**asked):
        whole = cluster.chat(user("Tell me story 0 about a fox."), **LONG)
        load = Asking(cluster, 8, max_tokens=200, temperature=0, ignore_eos=True)
        until(lambda: len(cluster.servers()) == 2, "another replica comes")
        until(lambda: len(load.replicas) == 2, "it answers")
        assert {reply.status for reply in load.stop()} == {200}
        # Two of these are at each replica, and ask for one: both are at work when one goes.
        load = Asking(cluster, 4, **LONG)
        until(lambda: len(cluster.servers()) == 1, "a replica goes")
        replies = load.stop()
        assert {reply.status for reply in replies} == {200}
        assert {reply.json["usage"]["completion_tokens"] for reply in replies} == {TOKENS}
        assert {text(reply) for reply in replies if reply.number == 0} == {text(whole)}
        assert len(load.replicas) == 2
        assert prefixes(cluster), "who goes writes what it knows"


def test_replicas_follow_tokens_a_second(cluster):
    with cluster.running(**QUICK, max_replicas=2, target_requests=1000, target_tokens_s=1):
        load = Asking(cluster, 1, **LONG)
        until(lambda: len(cluster.servers()) == 2, "another replica comes")
        assert {reply.status for reply in load.stop()} == {200}
