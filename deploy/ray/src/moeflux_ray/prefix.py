"""Which replica has computed the beginning of a request before.

A request's beginning is told by a chain of hashes, one for each message and for each stretch of a
long one; each hash covers all that comes before it. Two requests begin alike as far as their
chains do. A replica holds a request's prefix if that is at least half of what the model did not
write itself: less, as a few words that all applications begin with, is no reason to crowd there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

#: Characters after which a long text has another link.
STRETCH_CHARS = 2048
#: Fields that stand before the conversation in what the model reads.
HEAD_FIELDS = ("model", "tools", "system", "instructions", "chat_template_kwargs")
#: Fields that hold what is read, one of them in a request.
BODY_FIELDS = ("messages", "input", "prompt")
#: Links that are remembered, at about 100 bytes each.
MOST_LINKS = 1 << 17
#: Items that the model wrote, by their role or type: who computed what comes before has them too.
WRITTEN = ("assistant", "function_call", "reasoning")


class Link(NamedTuple):
    """A beginning of a request."""

    hash: int
    #: Its characters, less those that the model wrote.
    chars: int


def chain(body: Mapping[str, Any]) -> list[Link]:
    """A request's beginnings, the shortest first; none if nothing is to be read."""
    content = next((body[name] for name in BODY_FIELDS if body.get(name)), None)
    if content is None:
        return []
    head = {name: body[name] for name in HEAD_FIELDS if body.get(name)}
    state = hashlib.blake2b(digest_size=8)
    links, chars = [], 0
    for item in (head, *_items(content)):
        for part in _stretches(item):
            state.update(part.encode(errors="surrogatepass"))
            state.update(b"\0")
            chars += 0 if _is_written(item) else len(part)
            links.append(Link(int.from_bytes(state.digest(), "big"), chars))
    return links


def _items(content: Any) -> list[Any]:
    items = content if isinstance(content, list) else [content]
    if all(isinstance(item, int) for item in items):
        return [" ".join(map(str, items))]
    return items


def _is_written(item: Any) -> bool:
    return isinstance(item, dict) and any(item.get(key) in WRITTEN for key in ("role", "type"))


def _stretches(item: Any) -> Iterator[str]:
    text = item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
    for start in range(0, len(text), STRETCH_CHARS):
        yield text[start : start + STRETCH_CHARS]


class PrefixIndex:
    """Replicas by links, the least recently used forgotten first."""

    def __init__(self, most_links: int = MOST_LINKS) -> None:
        self._most = most_links
        self._links: OrderedDict[int, set[str]] = OrderedDict()
        #: How many links each replica has.
        self.sizes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._links)

    def note(self, links: Iterable[Link], replica: str) -> None:
        """A replica has what `links` tell."""
        for link in links:
            holders = self._links.setdefault(link.hash, set())
            self.sizes[replica] += replica not in holders
            holders.add(replica)
            self._links.move_to_end(link.hash)
        while len(self._links) > self._most:
            _, holders = self._links.popitem(last=False)
            self.sizes.subtract(holders)

    def holders(self, links: Sequence[Link]) -> dict[str, int]:
        """How many characters of a request's prefix each replica has, where that is at least half
        of them.
        """
        found: dict[str, int] = {}
        for link in links:
            holders = self._links.get(link.hash)
            if not holders:
                break
            if 2 * link.chars >= links[-1].chars:
                found.update(dict.fromkeys(holders, link.chars))
        return found

    def forget(self, replica: str) -> None:
        """A replica is gone."""
        for link in [link for link, holders in self._links.items() if replica in holders]:
            self._links[link].discard(replica)
            if not self._links[link]:
                del self._links[link]
        del self.sizes[replica]


def choose(
    holders: Mapping[str, int],
    queues: Mapping[str, int],
    sizes: Mapping[str, int],
    imbalance: int,
) -> dict[str, str]:
    """Replicas, the best first, each with why it would be taken: ``prefix`` (it holds that),
    ``overload`` (those that hold the prefix are too busy) or ``queue`` (nobody holds it).

    `queues` has the running and waiting requests of each replica that can be chosen, `sizes` how
    much each one holds: who has least is the best place for what nobody has.
    """
    if not queues:
        return {}
    idle = sorted(queues, key=lambda replica: (queues[replica], sizes.get(replica, 0)))
    most = queues[idle[0]] + imbalance
    held = [replica for replica in idle if replica in holders]
    able = [replica for replica in held if queues[replica] <= most]
    able.sort(key=lambda replica: -holders[replica])
    order = dict.fromkeys(able, "prefix")
    for replica in idle:
        order.setdefault(replica, "overload" if held else "queue")
    return order
