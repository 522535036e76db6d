"""Which replica has computed the beginning of a request before.

A request's beginning is told by a chain of hashes, one for each message and for each stretch of a
long one; each hash covers all that comes before it. Two requests begin alike as far as their
chains do.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: Characters after which a long text has another link.
STRETCH_CHARS = 2048
#: Fields that stand before the conversation in what the model reads.
HEAD_FIELDS = ("model", "tools", "system", "instructions", "chat_template_kwargs")
#: Fields that hold what is read, one of them in a request.
BODY_FIELDS = ("messages", "input", "prompt")
#: Links that are remembered, at about 100 bytes each.
MOST_LINKS = 1 << 17


def chain(body: Mapping[str, Any]) -> list[int]:
    """The hashes of a request's beginnings, the shortest first; empty if nothing is to be read."""
    content = next((body[name] for name in BODY_FIELDS if body.get(name)), None)
    if content is None:
        return []
    head = {name: body[name] for name in HEAD_FIELDS if body.get(name)}
    state = hashlib.blake2b(digest_size=8)
    links = []
    for part in (*_stretches(head), *_parts(content)):
        state.update(part.encode(errors="surrogatepass"))
        state.update(b"\0")
        links.append(int.from_bytes(state.digest(), "big"))
    return links


def _parts(content: Any) -> Iterator[str]:
    items = content if isinstance(content, list) else [content]
    if all(isinstance(item, int) for item in items):
        items = [" ".join(map(str, items))]
    for item in items:
        yield from _stretches(item)


def _stretches(item: Any) -> Iterator[str]:
    text = item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
    for start in range(0, len(text), STRETCH_CHARS):
        yield text[start : start + STRETCH_CHARS]


class PrefixIndex:
    """Replicas by links, the least recently used forgotten first."""

    def __init__(self, most_links: int = MOST_LINKS) -> None:
        self._most = most_links
        self._links: OrderedDict[int, dict[str, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._links)

    def note(self, links: Iterable[int], replica: str) -> None:
        """A replica has what `links` tell."""
        for link in links:
            holders = self._links.setdefault(link, {})
            # The last one is the one that used it last.
            holders.pop(replica, None)
            holders[replica] = None
            self._links.move_to_end(link)
        while len(self._links) > self._most:
            self._links.popitem(last=False)

    def holders(self, links: Sequence[int]) -> dict[str, int]:
        """How many of the first links each replica has, the most recent user last among equals."""
        found: dict[str, int] = {}
        for depth, link in enumerate(links, start=1):
            holders = self._links.get(link)
            if not holders:
                break
            for replica in holders:
                found.pop(replica, None)
                found[replica] = depth
        return found

    def forget(self, replica: str) -> None:
        """A replica is gone."""
        for link in [link for link, holders in self._links.items() if replica in holders]:
            del self._links[link][replica]
            if not self._links[link]:
                del self._links[link]


def choose(
    holders: Mapping[str, int], queues: Mapping[str, int], imbalance: int
) -> tuple[list[str], str]:
    """Replicas, the best first, and why: ``prefix``, ``overload`` (one that holds the prefix is too
    busy) or ``queue`` (nobody holds it).

    `queues` has the running and waiting requests of each replica that can be chosen.
    """
    idle = sorted(queues, key=lambda replica: queues[replica])
    if not idle:
        return [], "queue"
    most = queues[idle[0]] + imbalance
    ordered = sorted(
        (replica for replica in holders if replica in queues),
        key=lambda replica: (-holders[replica], queues[replica]),
    )
    able = [replica for replica in ordered if queues[replica] <= most]
    rest = [replica for replica in idle if replica not in able]
    reason = "prefix" if able else ("overload" if ordered else "queue")
    return able + rest, reason
