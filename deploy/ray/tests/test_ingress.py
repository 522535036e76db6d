"""Requests whose replica is lost, before and after the first part of an answer."""

import asyncio
import json

import pytest

from moeflux_ray.errors import ServerLostError
from moeflux_ray.forward import Forward, Head
from moeflux_ray.ingress import ATTEMPTS, Attempts, Lost

ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
WORDS = [b'data: {"choices": [{"delta": {"content": "%d"}}]}\n\n' % n for n in range(3)]
DONE = b"data: [DONE]\n\n"
LOST = ServerLostError("the server is gone", "ask again", "n")


class Stream:
    """What a replica sends; an error in it is raised."""

    def __init__(self, parts):
        self.parts = iter(parts)
        self.cancelled = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        part = next(self.parts, None)
        if part is None:
            raise StopAsyncIteration
        if isinstance(part, Exception):
            raise part
        return part

    def cancel(self):
        self.cancelled = True


class Replicas:
    """Replicas that answer one after another."""

    def __init__(self, *streams):
        self.streams = [Stream(parts) for parts in streams]
        self.asked = []
        self.forward = self

    def remote(self, forward):
        forward.asked = "abc"[len(self.asked)]
        self.asked.append(list(forward.avoid))
        return self.streams[len(self.asked) - 1]


class Count:
    """What became of lost replicas."""

    def __init__(self):
        self.then = []

    def inc(self, tags):
        self.then.append(tags["then"])


def head(replica, kind="text/event-stream", status=200):
    return Head(status, [("content-type", kind)], replica, "n", "queue")


def streamed(*streams):
    """The bytes that a client gets, the replicas that were avoided, and what was counted."""
    replicas, count = Replicas(*streams), Count()

    async def run():
        forward = Forward("POST", "/v1/chat/completions", [], b"{}")
        attempts = Attempts(replicas, forward, count)
        await attempts.begin()
        return b"".join([event async for event in attempts.events()])

    return asyncio.run(run()), replicas, count.then


def test_a_loss_before_the_first_part_is_not_noticed():
    answer = [ROLE, *WORDS, DONE]
    for lost in ([LOST], [head("a"), LOST], [head("a"), ROLE, b": waiting\n\n", LOST]):
        told, replicas, then = streamed(lost, [head("b"), *answer])
        assert told.replace(b": waiting\n\n", b"") == b"".join(answer)
        assert then == ["asked again"]
        assert replicas.asked == [[], ["a"]], "who is lost is not asked again"
        assert all(stream.cancelled for stream in replicas.streams)


def test_a_loss_after_the_first_part_is_told_and_not_asked_again():
    told, replicas, then = streamed([head("a"), ROLE, WORDS[0], WORDS[1][:10], LOST])
    whole, error = told[: len(ROLE + WORDS[0])], told[len(ROLE + WORDS[0]) :]
    assert whole == ROLE + WORDS[0]
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "replica_lost"
    assert then == ["broke off"] and len(replicas.asked) == 1


def test_too_many_losses_are_an_error():
    told, replicas, then = streamed(*[[head("a"), ROLE, LOST]] * ATTEMPTS)
    assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "replica_lost"
    assert len(replicas.asked) == ATTEMPTS and then[-1] == "failed"
    with pytest.raises(Lost):
        streamed(*[[LOST]] * ATTEMPTS)


def test_a_whole_reply_is_asked_for_again_however_late_its_replica_is_lost():
    replicas = Replicas([head("a", "application/json"), b'{"half', LOST])
    replicas.streams.append(Stream([head("b", "application/json"), b'{"whole": ', b"1}"]))

    async def run():
        forward = Forward("POST", "/v1/chat/completions", [], b"{}")
        attempts = Attempts(replicas, forward, Count())
        await attempts.begin()
        return await attempts.whole(), attempts.told()

    body, told = asyncio.run(run())
    assert json.loads(body) == {"whole": 1}
    assert (told["x-moeflux-replica"], told["x-moeflux-attempts"]) == ("b", "2")
