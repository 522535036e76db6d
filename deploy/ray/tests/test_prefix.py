"""Which replica a request goes to, by what its chain says."""

from moeflux_ray.prefix import STRETCH_CHARS, Link, PrefixIndex, chain, choose


def user(text):
    return {"role": "user", "content": text}


def links(*hashes):
    """A chain of parts of ten characters each."""
    return [Link(hash, 10 * depth) for depth, hash in enumerate(hashes, start=1)]


def test_a_next_turn_begins_as_the_last_one_and_another_tool_does_not():
    first = {"messages": [user("a"), user("b")]}
    turn = {"messages": [*first["messages"], {"role": "assistant", "content": "c"}, user("d")]}
    known = chain(first)
    assert chain(turn)[: len(known)] == known
    assert len(chain(turn)) == len(known) + 2
    other = chain({**turn, "tools": [{"name": "f"}]})
    assert not set(other) & set(chain(turn))
    assert chain({"messages": [user("a"), user("x")]})[:2] == known[:2]


def test_what_the_model_wrote_does_not_count():
    long = {"role": "assistant", "content": "c" * 10_000}
    short = {"role": "assistant", "content": "c"}
    for key, other in (("role", short), ("type", {"type": "function_call", "name": "f"})):
        assert other[key]
        ends = [
            chain({"messages": [user("a"), said, user("d")]})[-1].chars for said in (long, other)
        ]
        assert ends[0] == ends[1]


def test_every_protocol_has_a_chain():
    assert chain({"prompt": [1, 2, 3]}) == chain({"prompt": "1 2 3"})
    assert len(chain({"prompt": "x" * (2 * STRETCH_CHARS + 1)})) == 4
    assert chain({"input": "hi", "instructions": "be brief"}) != chain({"input": "hi"})
    assert chain({"input": [{"role": "user", "content": "\udc80"}]})
    assert chain({}) == chain({"messages": []}) == chain({"messages": None}) == []
    assert chain({"messages": [None, 1, "x", {"role": ["user"]}]})


def test_the_index_knows_the_longest_prefix_and_forgets():
    index = PrefixIndex(most_links=6)
    index.note(links(1, 2, 3), "a")
    index.note(links(1, 2, 4), "b")
    assert index.holders(links(1, 2, 3, 9)) == {"a": 30, "b": 20}
    assert index.holders(links(1, 2, 4, 5, 6)) == {"b": 30}, "two of five is less than half"
    assert index.holders(links(7, 2, 3)) == {}
    assert index.sizes == {"a": 3, "b": 3}
    index.forget("a")
    assert index.holders(links(1, 2, 3)) == {"b": 20}
    index.note(links(5, 6, 7, 8), "c")
    assert len(index) == 6
    assert index.holders(links(5, 6, 7, 8)) == {"c": 40}
    assert index.sizes["b"] == 2


def test_a_prefix_counts_until_its_holder_is_too_busy():
    queues, sizes = {"a": 3, "b": 0, "c": 1}, {}
    held = choose({"a": 50, "c": 20}, queues, sizes, 4)
    assert list(held.items()) == [("a", "prefix"), ("c", "prefix"), ("b", "overload")]
    busy = choose({"a": 50}, queues, sizes, 2)
    assert list(busy.items()) == [("b", "overload"), ("c", "overload"), ("a", "overload")]
    assert next(iter(choose({}, queues, sizes, 2).items())) == ("b", "queue")
    assert set(choose({"gone": 9}, queues, sizes, 2).values()) == {"queue"}
    assert choose({"a": 1}, {}, sizes, 2) == {}
    assert list(choose({}, {"a": 0, "b": 0}, {"a": 9, "b": 2}, 2)) == ["b", "a"]
