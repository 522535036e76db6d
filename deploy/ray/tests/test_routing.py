"""Where conversations go, and what is told of it."""

import random
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import ray

from local_cluster import until

CONVERSATIONS, TURNS = 50, 4


def talk(cluster, number):
    """A conversation; of each turn where it went, why, and whether its prefix was found there."""
    draw = random.Random(number)
    words = " ".join(draw.choice(["fox", "code", "up", "sum", "day"]) for _ in range(60))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{number}: {words}"},
    ]
    turns, before = [], 0
    for _ in range(TURNS):
        reply = cluster.chat(messages, max_tokens=16)
        assert reply.status == 200, reply.body
        usage = reply.json["usage"]
        # All that was read last time but the few tokens after the last message.
        found = usage["prompt_tokens_details"]["cached_tokens"] >= 0.9 * before > 0
        turns.append((reply.replica, reply.headers["x-moeflux-route"], found))
        before = usage["prompt_tokens"]
        answer = {"role": "assistant", "content": reply.json["choices"][0]["message"]["content"]}
        messages += [answer, {"role": "user", "content": "And then?"}]
    return turns


def load(cluster):
    """The share of later turns that find their prefix, and all turns."""
    with ThreadPoolExecutor(10) as pool:
        talks = list(pool.map(lambda number: talk(cluster, number), range(CONVERSATIONS)))
    later = [found for turns in talks for _, _, found in turns[1:]]
    return sum(later) / len(later), [turn for turns in talks for turn in turns]


def exported():
    """What the nodes tell Prometheus."""
    texts = []
    for node in ray.nodes():
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url, timeout=30) as reply:
                texts.append(reply.read().decode())
    return "".join(texts)


def test_conversations_stay_where_their_prefix_is(cluster):
    with cluster.running(replicas=3):
        share, turns = load(cluster)
        assert share >= 0.9
        assert len({replica for replica, _, _ in turns}) == 3, "each has something to do"
        first = [route for _, route, _ in turns[::TURNS]]
        assert set(first) == {"queue"}, "a few shared words are no prefix"
        assert {route for _, route, _ in turns} <= {"queue", "prefix", "overload"}
        wanted = ["ray_moeflux_generated_tokens", "ray_moeflux_prefix_hits", 'route="prefix"']
        until(lambda: all(name in exported() for name in wanted), f"metrics have {wanted}")
    with cluster.running(replicas=3, routing="random"):
        at_random, turns = load(cluster)
        assert {route for _, route, _ in turns} == {"random"}
    print(f"\nturns that find their prefix: {share:.1%}; with random routing {at_random:.1%}")
    assert at_random < share
