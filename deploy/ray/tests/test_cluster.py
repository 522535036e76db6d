"""The application on a cluster of several nodes: routing, failures, draining, batches."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

import moeflux_ray

PORT = 8437
URL = f"http://127.0.0.1:{PORT}/v1/chat/completions"
#: Seconds until a cluster must have mended itself.
MENDED_S = 20


@pytest.fixture(scope="module")
def cluster():
    """A head that runs the entrance, and three nodes with a place for a replica each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(3):
        cluster.add_node(num_cpus=1, resources={"place": 1})
    ray.init(cluster.address, logging_level="error", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    yield cluster
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def run(binary, demo, tmp_path, **more):
    args = {"model": demo, "binary": binary, "memory": "256MiB", "cache": str(tmp_path)} | more
    serve.run(moeflux_ray.app(args))


def ask(messages, **more):
    body = json.dumps({"messages": messages, "max_tokens": 16, **more}).encode()
    request = urllib.request.Request(URL, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.headers, reply.read()


def talk(number, turns):
    """A conversation; where each turn went, and why."""
    draw = random.Random(number)
    words = " ".join(draw.choice(["fox", "code", "up", "sum", "day"]) for _ in range(60))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{number}: {words}"},
    ]
    went = []
    for _ in range(turns):
        headers, text = ask(messages)
        answer = json.loads(text)
        known = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        went.append((headers["x-moeflux-replica"], headers["x-moeflux-route"], known))
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    return went


def servers(binary):
    """Processes of replicas' servers."""
    name = os.path.basename(binary)
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if (p.info["cmdline"] or [""])[0] == binary
        or (name in (p.info["cmdline"] or [""])[0] and "serve" in p.info["cmdline"])
    ]


def test_conversations_stay_where_their_prefix_is(cluster, binary, demo, tmp_path):
    run(binary, demo, tmp_path, replicas=3)
    with ThreadPoolExecutor(10) as pool:
        talks = list(pool.map(lambda number: talk(number, 4), range(50)))
    later = [turn for turns in talks for turn in turns[1:]]
    found = sum(known > 0 for _, _, known in later)
    assert found >= 0.9 * len(later), f"{found} of {len(later)}"
    replicas = {replica for turns in talks for replica, _, _ in turns}
    assert len(replicas) == 3, "all have something to do"


def test_a_killed_server_and_a_killed_replica_lose_nothing(cluster, binary, demo, tmp_path):
    run(binary, demo, tmp_path, replicas=3)
    stop = threading.Event()
    outcomes = []

    def client(number):
        while not stop.is_set():
            question = [{"role": "user", "content": f"Tell me story {number} about a fox."}]
            try:
                headers, text = ask(question, stream=True)
            except urllib.error.HTTPError as error:
                outcomes.append(json.loads(error.read())["error"]["code"])
                continue
            last = text.decode().strip().split("\n\n")[-1]
            whole = last == "data: [DONE]"
            outcomes.append("whole" if whole else json.loads(last[6:])["error"]["code"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    time.sleep(2)
    servers(binary)[0].kill()
    time.sleep(4)
    actors = [
        p for p in psutil.process_iter(["name"]) if "ServeReplica:default:Replica" in p.info["name"]
    ]
    assert actors
    actors[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(2)
    while len(servers(binary)) < 3:
        assert time.monotonic() - killed < MENDED_S, "the replica is not back"
        time.sleep(0.2)
    stop.set()
    [thread.join() for thread in threads]
    assert set(outcomes) <= {"whole", "replica_lost"}, set(outcomes)
    assert outcomes.count("whole") > 10


def test_a_batch_killed_three_times_is_whole(binary, demo, tmp_path):
    requests = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": [{"role": "user", "content": f"What is {number % 9} plus 3?"}],
                "max_tokens": 16,
                "temperature": 0.8,
            },
        }
        for number in range(300)
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(request) + "\n" for request in requests))
    args = [f"model={demo}", f"binary={binary}", "memory=256MiB", "replicas=2"]
    args.append(f"cache={tmp_path / 'cache'}")

    def start(out):
        words = [sys.executable, "-m", "moeflux_ray.batch", str(source), str(out), *args]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def told(out):
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return [(row["custom_id"], row["response"]["body"]["choices"]) for row in rows]

    undisturbed = tmp_path / "undisturbed.jsonl"
    assert start(undisturbed).wait(300) == 0
    disturbed = tmp_path / "disturbed.jsonl"
    for seconds in (4, 7, 10):
        process = start(disturbed)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not disturbed.exists() or told(disturbed) == told(undisturbed)
    assert start(disturbed).wait(300) == 0
    assert told(disturbed) == told(undisturbed)
    assert [name for name, _ in told(disturbed)] == [one["custom_id"] for one in requests]
