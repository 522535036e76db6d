"""Batches: what is refused, and that a part is there whole or not at all."""

import json

import pytest

from moeflux_ray.batch import PART_REQUESTS, BatchError, Parts, read_lines
from moeflux_ray.settings import Settings

SETTINGS = Settings.of({"model": "demo"})


def request(name, **more):
    body = {"messages": [{"role": "user", "content": name}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} | more


def written(path, requests):
    path.write_text("".join(json.dumps(one) + "\n" for one in requests))
    return path


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('{"custom_id": "a"', "line 2 is no JSON"),
        ("[]", "line 2 is no object"),
        (json.dumps(request("")), "custom_id is missing"),
        (json.dumps(request("a")), "is that of line 1 too"),
        (json.dumps(request("b", method="GET")), "only POST"),
        (json.dumps(request("b", url="/metrics")), "only POST"),
        (json.dumps(request("b", body=None)), "body is missing"),
        (json.dumps(request("b", body={"stream": True})), "stream is set"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, wrong, problem):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(request("a")) + "\n" + wrong + "\n")
    with pytest.raises(BatchError, match=problem):
        read_lines(path)


def test_an_empty_or_missing_file_is_named(tmp_path):
    with pytest.raises(BatchError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")
    with pytest.raises(BatchError, match="has no requests"):
        read_lines(written(tmp_path / "in.jsonl", []))


def test_lines_end_where_json_lets_them(tmp_path):
    names = ["a\u2028b\x85c", "d"]
    path = tmp_path / "in.jsonl"
    told = "\r\n".join(json.dumps(request(name), ensure_ascii=False) for name in names)
    path.write_text(told, encoding="utf-8")
    assert [line.custom_id for line in read_lines(path)] == names


def test_parts_are_found_again_and_joined_in_order(tmp_path):
    names = [f"r{number}" for number in range(2 * PART_REQUESTS + 3)]
    source = written(tmp_path / "in.jsonl", [request(name) for name in names])
    lines = read_lines(source)
    assert len({line.body["seed"] for line in lines}) == len(lines)
    out = tmp_path / "out.jsonl"
    parts = Parts(out, lines, SETTINGS)
    assert parts.missing() == [0, 1, 2]
    for part in (2, 0):
        parts.path(part).write_text("".join(f"{line.custom_id}\n" for line in parts.requests(part)))
    again = Parts(out, read_lines(source), SETTINGS)
    assert again.missing() == [1]
    again.path(1).write_text("".join(f"{line.custom_id}\n" for line in again.requests(1)))
    again.join()
    assert out.read_text().split() == names
    assert not again.folder.exists()


def test_parts_of_another_input_are_not_used(tmp_path):
    lines = read_lines(written(tmp_path / "in.jsonl", [request("a"), request("b")]))
    out = tmp_path / "out.jsonl"
    Parts(out, lines, SETTINGS)
    with pytest.raises(BatchError, match="of another input, model or flags; remove it"):
        Parts(out, lines[:1], SETTINGS)
    for model in ({"model": "other"}, {"model": "demo", "pack": True}):
        with pytest.raises(BatchError, match="of another input, model or flags"):
            Parts(out, lines, Settings.of(model))
    with pytest.raises(BatchError, match="of another input, model or flags"):
        Parts(out, lines, Settings.of({"model": "demo", "flags": "--activations f32"}))
