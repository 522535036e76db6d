"""Which replica a request goes to, by what its chain says."""

from moeflux_ray.prefix import STRETCH_CHARS, PrefixIndex, chain, choose


def user(text):
    return {"role": "user", "content": text}


def test_a_next_turn_begins_as_the_last_one_and_another_tool_does_not():
    first = {"messages": [user("a"), user("b")]}
    turn = {"messages": [*first["messages"], {"role": "assistant", "content": "c"}, user("d")]}
    links = chain(first)
    assert chain(turn)[: len(links)] == links
    assert len(chain(turn)) == len(links) + 2
    other = chain({**turn, "tools": [{"name": "f"}]})
    assert not set(other) & set(chain(turn))
    assert chain({"messages": [user("a"), user("x")]})[:2] == links[:2]


def test_every_protocol_has_a_chain():
    assert chain({"prompt": [1, 2, 3]}) == chain({"prompt": "1 2 3"})
    assert len(chain({"prompt": "x" * (2 * STRETCH_CHARS + 1)})) == 4
    assert chain({"input": "hi", "instructions": "be brief"}) != chain({"input": "hi"})
    assert chain({"input": [{"role": "user", "content": "\udc80"}]})
    assert chain({}) == chain({"messages": []}) == chain({"messages": None}) == []


def test_the_index_knows_the_longest_prefix_and_forgets():
    index = PrefixIndex(most_links=6)
    index.note([1, 2, 3], "a")
    index.note([1, 2, 4], "b")
    assert index.holders([1, 2, 3, 9]) == {"b": 2, "a": 3}
    assert index.holders([7, 2, 3]) == {}
    index.forget("a")
    assert index.holders([1, 2, 3]) == {"b": 2}
    index.note([5, 6, 7, 8], "c")
    assert len(index) == 6
    assert index.holders([5, 6, 7, 8]) == {"c": 4}


def test_a_prefix_counts_until_its_holder_is_too_busy():
    queues = {"a": 3, "b": 0, "c": 1}
    assert choose({"a": 5, "c": 2}, queues, 4) == (["a", "c", "b"], "prefix")
    assert choose({"a": 5}, queues, 2) == (["b", "c", "a"], "overload")
    assert choose({}, queues, 2) == (["b", "c", "a"], "queue")
    assert choose({"gone": 9}, queues, 2)[1] == "queue"
    assert choose({"a": 1}, {}, 2) == ([], "queue")
