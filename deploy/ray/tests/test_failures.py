"""Servers, replicas and nodes that are killed under load."""

import itertools
import json
import threading
import time

import psutil

from local_cluster import until, user

QUESTIONS = [f"Tell me a story about a {animal}." for animal in ("fox", "dog", "cat", "bear")]
#: Long, so that a kill finds answers under way.
BODY = {"max_tokens": 600, "temperature": 0, "ignore_eos": True}
CLIENTS = 6


class Load:
    """Clients that ask until they are told to stop, and check what they get."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.answers = {question: self._whole(question) for question in QUESTIONS}
        self.outcomes = []
        self.wrong = []
        self.ended = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _whole(self, question):
        reply = self.cluster.chat(user(question), **BODY)
        assert reply.status == 200, reply.body
        return reply.json["choices"][0]["message"]["content"]

    def _run(self, first):
        for number in itertools.count(first):
            if self._stop.is_set():
                return
            question = QUESTIONS[number % len(QUESTIONS)]
            protocol = (self._chat, self._messages, self._plain)[number % 3]
            try:
                text, problem = protocol(user(question))
            except Exception as error:
                self.wrong.append(repr(error))
                continue
            whole = self.answers[question]
            self.outcomes.append(problem or "whole")
            if problem is None:
                self.ended.append(time.monotonic())
            # Once and no more of it, or its beginning.
            if not (text == whole if problem is None else whole.startswith(text)):
                self.wrong.append(f"{problem}: {text!r} is not {whole!r}")

    def _chat(self, messages):
        reply = self.cluster.chat(messages, stream=True, **BODY)
        if reply.status != 200:
            return "", reply.json["error"]["code"]
        *events, last = reply.events()
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        if "error" in last:
            return text, last["error"]["code"]
        assert reply.body.count(b"data: [DONE]") == 1
        return text + (last["choices"][0]["delta"].get("content") or ""), None

    def _messages(self, messages):
        body = {"messages": messages, "stream": True, "model": self.cluster.demo, **BODY}
        reply = self.cluster.ask("/v1/messages", body)
        if reply.status != 200:
            return "", reply.json["error"]["type"]
        events = reply.events()
        deltas = (event["delta"] for event in events if event["type"] == "content_block_delta")
        text = "".join(delta["text"] for delta in deltas)
        if events[-1]["type"] == "error":
            return text, events[-1]["error"]["type"]
        kinds = [event["type"] for event in events]
        assert kinds.count("message_start") == kinds.count("message_stop") == 1
        return text, None

    def _plain(self, messages):
        reply = self.cluster.chat(messages, **BODY)
        if reply.status != 200:
            return "", reply.json["error"]["code"]
        return reply.json["choices"][0]["message"]["content"], None

    def wait_for_answers(self, count):
        """Until so many more answers came whole; the seconds that it took."""
        there = len(self.ended)
        return until(lambda: len(self.ended) >= there + count, "answers come")

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def mended(cluster, load, gone, count):
    """Waits for `count` servers, none of them in `gone`, and for answers; the seconds."""
    began = time.monotonic()

    def is_back():
        there = {process.pid for process in cluster.servers()} - gone
        return len(there) >= count

    until(is_back, f"{count} servers are there")
    load.wait_for_answers(CLIENTS)
    return time.monotonic() - began


def test_killed_servers_replicas_and_nodes_lose_no_request(cluster):
    with cluster.running(replicas=3):
        load = Load(cluster)
        try:
            load.wait_for_answers(CLIENTS)
            server = cluster.servers()[0]
            server.kill()
            seconds = {"server": mended(cluster, load, {server.pid}, 3)}

            server = cluster.servers()[0]
            server.parent().kill()
            seconds["replica"] = mended(cluster, load, {server.pid}, 3)

            node = _a_node(cluster)
            before = {process.pid for process in cluster.servers()}
            cluster.cluster.remove_node(node, allow_graceful=False)
            until(lambda: len(cluster.servers()) == 2, "a node's server ends with it")
            gone = before - {process.pid for process in cluster.servers()}
            seconds["node"] = mended(cluster, load, gone, 2)
            cluster.add_node()
            seconds["node added"] = mended(cluster, load, gone, 3)
        finally:
            load.stop()
        counts = {outcome: load.outcomes.count(outcome) for outcome in set(load.outcomes)}
        told = {what: round(took, 1) for what, took in seconds.items()}
        print(f"\noutcomes {json.dumps(counts)}; seconds until all was back {json.dumps(told)}")
        assert not load.wrong, load.wrong[:3]
        assert set(counts) <= {"whole", "replica_lost", "overloaded", "api_error"}


def _a_node(cluster):
    """A node that has a replica, other than the head."""
    for node in cluster.cluster.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        below = {process.pid for process in psutil.Process(raylet).children(recursive=True)}
        if below & {process.pid for process in cluster.servers()}:
            return node
    raise AssertionError("no node has a server")
