"""Arguments, sizes and events."""

import json
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from moeflux_ray.errors import SettingsError
from moeflux_ray.events import Splitter, broken, has_content, is_comment
from moeflux_ray.settings import Settings
from moeflux_ray.sizes import parse_size


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({}, "model is missing"),
        ({"model": "m", "replica": 2}, "replica is not known"),
        ({"model": "m", "replicas": "two"}, "replicas is 'two', but must be of kind int"),
        ({"model": "m", "replicas": 1.5}, "kind int"),
        ({"model": "m", "pack": "maybe"}, "kind bool"),
        ({"model": "m", "replicas": 0}, "must be above 0"),
        ({"model": "m", "routing": "best"}, "must be prefix or random"),
        ({"model": "m", "port": 70000}, "from 1 to 65535"),
        ({"model": "m", "memory": "much"}, "write it as 8GiB"),
        ({"model": "m", "min_replicas": 1}, "go together"),
        ({"model": "m", "min_replicas": 1, "max_replicas": 3, "replicas": 2}, "exclude"),
        ({"model": "m", "min_replicas": 3, "max_replicas": 2}, "is empty"),
    ],
)
def test_a_wrong_argument_is_named(args, problem):
    with pytest.raises(SettingsError, match=problem):
        Settings.of(args)


def test_texts_and_values_are_the_same():
    texts = Settings.of({"model": "m", "replicas": "3", "pack": "True", "cpus": "2"})
    assert texts == Settings.of({"model": "m", "replicas": 3, "pack": True, "cpus": 2.0})
    assert Settings.of({"model": "m", "min_replicas": "0", "max_replicas": 2}).max_replicas == 2


def test_sizes_are_those_of_the_server():
    sizes = {"8GiB": 8 << 30, "1.5GB": 1_500_000_000, "64k": 65536, "1024": 1024, "2 MiB": 2 << 20}
    for text, size in sizes.items():
        assert parse_size(text) == size
    for text in ["", "GiB", "8iB", "8 apples", "-1"]:
        with pytest.raises(SettingsError, match="write it as 8GiB"):
            parse_size(text)


def test_examples_are_understood():
    folder = Path(__file__).parents[1] / "examples"
    config = yaml.safe_load((folder / "serve.yaml").read_text())
    kube = yaml.safe_load((folder / "kuberay.yaml").read_text())
    inner = yaml.safe_load(kube["spec"]["serveConfigV2"])
    for one in (config, inner):
        (application,) = ServeDeploySchema.model_validate(one).applications
        assert application.import_path == "moeflux_ray:app"
        assert Settings.of(application.args).max_replicas
    (group,) = kube["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    asked = Settings.of(inner["applications"][0]["args"])
    assert float(limits["cpu"]) >= asked.cpus
    assert parse_size(limits["memory"].replace("Gi", "GiB")) >= parse_size(asked.memory)
    assert group["maxReplicas"] >= asked.max_replicas


def event(data, name=None):
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode()


def test_the_first_event_with_content_is_told_from_those_before():
    def choice(delta, finish=None):
        return event({"choices": [{"delta": delta, "finish_reason": finish}]})

    opening = [
        choice({"role": "assistant", "content": "", "refusal": None}),
        event({"type": "message_start"}, "message_start"),
        event({"type": "content_block_start"}),
        event({"type": "response.created"}),
        b": waiting",
    ]
    content = [
        choice({"content": "a"}),
        choice({"reasoning_content": "a"}),
        choice({"tool_calls": [{}]}),
        choice({}, "stop"),
        event({"choices": [{"text": ""}]}),
        event({"choices": [], "usage": {}}),
        event({"type": "content_block_delta"}),
        event({"type": "response.output_text.delta"}),
        event({"error": {}}),
        b"data: [DONE]",
    ]
    assert not any(map(has_content, opening))
    assert all(map(has_content, content))
    assert is_comment(opening[-1]) and not is_comment(content[0])


def test_a_stream_is_cut_into_events_wherever_it_is_cut():
    stream = b"data: 1\n\n: waiting\n\ndata: 2\n\nrest"
    for size in range(1, len(stream)):
        splitter = Splitter()
        found = []
        for start in range(0, len(stream), size):
            found += splitter.push(stream[start : start + size])
        assert found == [b"data: 1\n\n", b": waiting\n\n", b"data: 2\n\n"]
        assert splitter.end() == b"rest"


def test_a_broken_answer_is_told_in_each_protocol():
    for path, kind in [
        ("/v1/chat/completions", None),
        ("/v1/completions", None),
        ("/v1/messages", "error"),
        ("/v1/responses", "error"),
    ]:
        *head, data, end, last = broken(path, "it broke").decode().split("\n")
        assert head == ([f"event: {kind}"] if kind else [])
        assert (end, last) == ("", "")
        value = json.loads(data.removeprefix("data: "))
        assert value.get("type") == kind
        assert "it broke" in json.dumps(value)
