"""What is said where Ray is not there. Runs before there is a cluster."""

import os
import re
import subprocess
import sys


def test_absent_ray_is_told():
    absent = "import sys; sys.modules['ray'] = None; "
    app = "import sys, moeflux_ray; moeflux_ray.app({})"
    batch = "from moeflux_ray.batch import main; sys.exit(main(['in', 'out', 'model=m']))"
    for code in (app, batch):
        words = [sys.executable, "-c", absent + code]
        run = subprocess.run(words, capture_output=True, text=True, env={**os.environ})
        assert run.returncode == 1
        assert re.search(r"node \S+: Ray is not installed .*`pip install", run.stderr)


def test_an_absent_cluster_is_told(tmp_path):
    (tmp_path / "in").write_text('{"custom_id": "a", "url": "/v1/completions", "body": {}}\n')
    words = ["in", "out", "model=m"]
    run = subprocess.run(
        [sys.executable, "-m", "moeflux_ray.batch", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "auto"},
    )
    assert run.returncode == 1
    assert "no cluster answers" in run.stderr and "RAY_ADDRESS" in run.stderr
