"""A batch that is killed three times, and one of its servers once."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys

import psutil

from moeflux_ray.batch import PART_REQUESTS

PARTS = 6


def requests():
    for number in range(PARTS * PART_REQUESTS):
        body = {
            "messages": [{"role": "user", "content": f"What is {number % 9} plus 3?"}],
            "max_tokens": 64,
            "temperature": 0.8,
            "ignore_eos": True,
        }
        name, url = f"r{number}", "/v1/chat/completions"
        yield {"custom_id": name, "method": "POST", "url": url, "body": body}


class Batch:
    """A run of the command."""

    def __init__(self, source, out, settings):
        words = [sys.executable, "-m", "moeflux_ray.batch", str(source), str(out), *settings]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
        )

    def done(self):
        """How many requests have been answered, each time that it is told."""
        for line in self.process.stderr:
            told = re.fullmatch(r"(\d+) of \d+ requests\n", line)
            if told:
                yield int(told[1])

    def servers(self, binary):
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            # Ray's own come and go.
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:2] == [binary, "serve"]:
                    found.append(process)
        return found

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def answers(out):
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [(row["custom_id"], row["response"]["body"]["choices"]) for row in rows]


def test_a_batch_killed_three_times_is_whole_and_the_same(tmp_path, binary, demo):
    source = tmp_path / "in.jsonl"
    asked = list(requests())
    source.write_text("".join(json.dumps(request) + "\n" for request in asked))
    settings = [f"model={demo}", f"binary={binary}", "memory=256MiB", "replicas=2"]
    settings.append(f"cache={tmp_path / 'cache'}")

    undisturbed = tmp_path / "undisturbed.jsonl"
    batch = Batch(source, undisturbed, settings)
    assert list(batch.done())[-1] == len(asked)
    assert batch.process.wait() == 0

    disturbed = tmp_path / "disturbed.jsonl"
    before = 0
    # Not after the last part but one: the last may be as far, and the batch whole.
    kills = sorted(random.sample(range(1, PARTS - 1), 3))
    print(f"\nkilled after {kills} of {PARTS} parts")
    for kill in kills:
        batch = Batch(source, disturbed, settings)
        told = batch.done()
        done = next(told)
        assert done >= before, "what was answered stays"
        while done < kill * PART_REQUESTS:
            done = next(told)
        batch.kill()
        before = done
        assert not disturbed.exists()
    batch = Batch(source, disturbed, settings)
    told = batch.done()
    assert next(told) >= before
    killed = False
    for _ in told:
        servers = batch.servers(binary)
        if servers and not killed:
            servers[0].kill()
            killed = True
    assert batch.process.wait() == 0
    assert answers(disturbed) == answers(undisturbed)
    assert [name for name, _ in answers(disturbed)] == [one["custom_id"] for one in asked]
