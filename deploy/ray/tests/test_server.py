"""A replica's server: started, watched, ended, and what is said where that fails."""

import fcntl
import stat
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from local_cluster import until
from moeflux_ray.errors import BinaryError, ModelError, StartError
from moeflux_ray.prepare import PrefixFolder, prepare
from moeflux_ray.server import Server, command, find_binary
from moeflux_ray.settings import Settings


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def settings(tmp_path, model, **more):
    return Settings.of({"model": model, "cache": str(tmp_path / "cache")} | more)


def test_a_server_starts_answers_and_ends(tmp_path, binary, demo):
    asked = settings(tmp_path, demo, memory="256MiB")
    model = prepare(find_binary(binary), asked)
    server = Server(command(binary, model, asked, tmp_path / "kept"), 60)
    assert server.is_healthy()
    with urllib.request.urlopen(f"{server.url}/v1/models") as reply:
        assert demo in reply.read().decode()
    server.stop(30)
    assert not server.is_healthy()
    assert server.process.returncode == 0


def test_what_keeps_a_server_from_starting_is_told_with_the_node(tmp_path, binary, demo):
    little = settings(tmp_path, demo, memory="1MiB")
    with pytest.raises(StartError, match=r"node \S+.*: the server ended with status .*memory"):
        Server(command(binary, prepare(binary, little), little, tmp_path / "kept"), 60)
    silent = script(tmp_path / "silent", "sleep 60")
    with pytest.raises(StartError, match=r"did not start within 0\.2 s.*start_timeout_s"):
        Server([silent], 0.2)


def test_a_program_that_is_missing_or_another_is_told(tmp_path):
    with pytest.raises(BinaryError, match=r"node \S+.*: there is no program nowhere/moeflux"):
        find_binary("nowhere/moeflux")
    with pytest.raises(BinaryError, match=r"is moeflux 9\.9\.9, and this package goes with"):
        find_binary(script(tmp_path / "other", "echo moeflux 9.9.9"))
    with pytest.raises(BinaryError, match="does not run"):
        find_binary(script(tmp_path / "broken", "exit 3"))


def test_a_model_that_is_missing_is_told_and_a_repository_pulled_once(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model /nowhere; put it at the same path"):
        prepare("moeflux", settings(tmp_path, "/nowhere"))
    log = tmp_path / "log"
    pull = script(tmp_path / "pull", f'echo "$@" >> {log}; sleep 0.2; mkdir -p "$4"')
    asked = settings(tmp_path, "owner/name", pack=True)
    fails = script(tmp_path / "fails", 'mkdir -p "$4"; echo no such repository >&2; exit 1')
    with pytest.raises(ModelError, match="could not be pulled: no such repository"):
        prepare(fails, asked)
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(lambda _: prepare(pull, asked), range(3)))
    (folder,) = found
    assert folder.is_dir()
    (words,) = log.read_text().splitlines()
    assert words == f"pull owner/name --output {folder} --pack"
    assert prepare(fails, asked) == folder, "what is whole is not asked for again"
    assert prepare(pull, settings(tmp_path, "owner/name")) != folder


def test_a_folder_of_prefixes_has_one_replica_at_a_time(tmp_path):
    asked = settings(tmp_path, "owner/name")
    first, second = PrefixFolder(asked), PrefixFolder(asked)
    assert first.path != second.path
    there = first.path
    there.mkdir()
    del first
    again = PrefixFolder(asked)
    assert again.path == there, "the next one finds what was left"
    del again
    with (there / "lock").open("w") as server:
        fcntl.flock(server, fcntl.LOCK_EX)
        assert PrefixFolder(asked).path not in (there, second.path), "a server still has it"


def test_a_server_ends_with_who_started_it(tmp_path):
    name = tmp_path / "pid"
    code = (
        "import os; from moeflux_ray.server import Server\n"
        f"Server(['sh', '-c', 'echo $$ > {name}.new; mv {name}.new {name}; "
        "echo http://127.0.0.1:1/ >&2; exec sleep 600'], 60)"
    )
    starter = psutil.Popen([sys.executable, "-c", code])
    until(lambda: name.exists() and len(starter.children()) == 2, "it is started and watched")
    server = psutil.Process(int(name.read_text()))
    starter.kill()
    starter.wait()
    until(lambda: has_ended(server), "it ends")


def has_ended(process):
    """Whether it runs no more; whoever takes over what is left of it may be slow."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
