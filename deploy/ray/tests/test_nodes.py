"""What is said, and of which node, where a replica cannot be had."""

import http.server
import re
import shutil
import stat
import threading

import pytest
import ray

import moeflux_ray
from moeflux_ray.cluster import check_nodes, start_serve
from moeflux_ray.errors import PlacementError, PortError, SettingsError
from moeflux_ray.settings import Settings

PLAIN_PATH = "/usr/bin:/bin"


@pytest.fixture
def odd_node(cluster, request):
    """A node that is larger than others, with an environment of its own; its beginning of an id."""
    home = cluster.home / "odd"
    home.mkdir()
    env = {"HOME": str(home), "PATH": f"{home}:{PLAIN_PATH}"}
    before = {node["NodeID"] for node in ray.nodes()}
    node = cluster.add_node(num_cpus=2, env_vars=env)
    (new,) = {node["NodeID"] for node in ray.nodes()} - before
    yield home, new[:12]
    cluster.cluster.remove_node(node)
    shutil.rmtree(home)


def test_a_program_or_model_that_one_node_lacks_is_told_with_that_node(cluster, odd_node):
    home, node = odd_node
    # Two processors, as only the odd node has.
    told = cluster.refusal(cpus=2, binary="moeflux")
    assert re.search(rf"node \S+ \(Ray's {node}\): there is no program moeflux; install", told)
    other = home / "moeflux"
    other.write_text("#!/bin/sh\necho moeflux 9.9.9\n")
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    told = cluster.refusal(cpus=2, binary="moeflux")
    assert re.search(rf"\(Ray's {node}\): \S+ is moeflux 9\.9\.9, .*; install moeflux \d", told)
    told = cluster.refusal(cpus=2, model="~/model")
    assert re.search(rf"\(Ray's {node}\): there is no model ~/model; put it at the same", told)


def test_too_little_memory_is_told_with_the_node(cluster):
    told = cluster.refusal(memory="1MiB")
    assert re.search(r"node \S+ \(Ray's \w+\): .*the smallest workable one is .*--memory", told)
    with pytest.raises(PlacementError, match=r"no node can .* has memory .*; ask for less by"):
        moeflux_ray.app(cluster.settings(memory="900TiB"))
    with pytest.raises(PlacementError, match=r"\(\w{12}\) has CPU 1"):
        moeflux_ray.app(cluster.settings(cpus=64))
    check_nodes(Settings.of(cluster.settings(cpus=64, wait_for_nodes=True)))


def test_a_taken_port_is_told(cluster, monkeypatch):
    with pytest.raises(SettingsError, match="port is given, but Ray Serve runs already"):
        moeflux_ray.app(cluster.settings(port=8000))
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = cluster.settings(port=server.server_port)
    monkeypatch.setattr("moeflux_ray.cluster.is_serve_running", lambda: False)
    with pytest.raises(PortError, match=r"node .*port \d+ at 127.0.0.1 .*choose another one by"):
        start_serve(Settings.of(asked), asked)
    server.shutdown()
