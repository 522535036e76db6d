"""Figures of a local cluster: ``python tests/measure.py overhead|decode`` (see docs/LOG.md).

They mean something on a machine that does nothing else.
"""

import http.client
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from local_cluster import LocalCluster, user

REPOSITORY = Path(__file__).parents[3]
#: Requests each way, and answers at a time of one replica.
REQUESTS, CLIENTS = 101, 4
#: Runs the program on the first core that no other server has, and holds that core while it runs.
ONE_CORE = """#!/bin/bash
for core in $(seq 0 $(($(nproc --all) - 1))); do
    exec 9>"{home}/core-$core"
    flock -n 9 || continue
    taskset -cp "$core" $$ >/dev/null
    exec -a "$0" "{binary}" "$@"
done
echo "there are more servers than cores" >&2
exit 1
"""
#: Seconds of a measurement of decode, and of one before it.
WINDOW_S, WARM_S = 8, 3
TOKENS = re.compile(r"^moeflux_generated_tokens_total (\S+)$", re.M)


def addresses(cluster):
    """Where the replicas' servers listen."""
    found = []
    for server in cluster.servers():
        ports = [c.laddr.port for c in server.net_connections() if c.status == "LISTEN"]
        found.append(("127.0.0.1", ports[0]))
    return found


def first_token_s(address, number):
    """Seconds from a request to the first part of its answer."""
    messages = user(f"{number}: tell me a story about a fox and a bear that live in a wood.")
    body = json.dumps({"messages": messages, "stream": True, "max_tokens": 8})
    connection = http.client.HTTPConnection(*address, timeout=60)
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    for line in reply:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"]["content"]:
            took = time.perf_counter() - began
            break
    reply.read()
    connection.close()
    return took


def overhead(cluster):
    """Time to the first token, alternately from the server itself and through Ray."""
    with cluster.running(replicas=1):
        (server,) = addresses(cluster)
        times = {"server": [], "through Ray": []}
        for number in range(REQUESTS):
            for way, address in (("server", server), ("through Ray", ("127.0.0.1", cluster.port))):
                times[way].append(1000 * first_token_s(address, f"{way} {number}"))
    medians = {way: statistics.median(took) for way, took in times.items()}
    for way, took in times.items():
        low, high = sorted(took)[len(took) // 10], sorted(took)[-len(took) // 10]
        print(f"{way}: {medians[way]:.1f} ms to the first token ({low:.1f} to {high:.1f})")
    print(f"Ray adds {medians['through Ray'] - medians['server']:.1f} ms at the median")


def generated(cluster):
    """Tokens that all servers have generated."""
    total = 0.0
    for host, port in addresses(cluster):
        with urllib.request.urlopen(f"http://{host}:{port}/metrics") as reply:
            total += float(TOKENS.search(reply.read().decode())[1])
    return total


def tokens_a_second(cluster, replicas, stream):
    """What so many replicas generate together."""
    stop = threading.Event()
    body = {"max_tokens": 2000, "temperature": 0, "ignore_eos": True, "stream": stream}

    def client(number):
        while not stop.is_set():
            assert cluster.chat(user(f"Tell me story {number}."), **body).status == 200

    with cluster.running(replicas=replicas):
        threads = [threading.Thread(target=client, args=(n,)) for n in range(replicas * CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(WARM_S)
        began, before = time.monotonic(), generated(cluster)
        time.sleep(WINDOW_S)
        rate = (generated(cluster) - before) / (time.monotonic() - began)
        stop.set()
        for thread in threads:
            thread.join()
    return rate


def decode(cluster):
    """Aggregate decode of one replica and of two, alternately, each with a core of its own."""
    for stream in (False, True):
        rates = {1: [], 2: []}
        for _ in range(2):
            for replicas, found in rates.items():
                found.append(tokens_a_second(cluster, replicas, stream))
        one, two = (statistics.mean(found) for found in rates.values())
        told = {n: [round(rate) for rate in found] for n, found in rates.items()}
        print(f"{'streams' if stream else 'whole replies'}: {told} tokens/s, {two / one:.2f} times")


def main(what):
    home = tempfile.mkdtemp(prefix="moeflux-ray-")
    binary = shutil.which(os.environ.get("MOEFLUX") or str(REPOSITORY / "target/release/moeflux"))
    if what == "decode":
        alone = Path(home, "moeflux")
        alone.write_text(ONE_CORE.format(home=home, binary=binary))
        alone.chmod(0o755)
        binary = str(alone)
    cluster = LocalCluster(Path(home), binary, str(REPOSITORY / "models/demo"), nodes=2)
    try:
        {"overhead": overhead, "decode": decode}[what](cluster)
    finally:
        cluster.close()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
