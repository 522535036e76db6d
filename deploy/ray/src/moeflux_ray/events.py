"""Server-sent events as the protocols have them.

Which one is the first that matters to a client, and how a broken answer is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

#: Events of Anthropic's and OpenAI's newer protocol that come before an answer has any content.
OPENING = frozenset(
    {
        "message_start",
        "content_block_start",
        "ping",
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    }
)


class Splitter:
    """Cuts a stream's bytes into events, each with the empty line at its end."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> Iterator[bytes]:
        """Whole events; what is left waits for more."""
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for event in whole:
            yield event + b"\n\n"

    def end(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


def is_comment(event: bytes) -> bool:
    """Whether it only keeps the connection alive."""
    return event.startswith(b":")


def is_opening(data: bytes) -> bool:
    """Whether these bytes of a stream are nothing but events that come before an answer."""
    splitter = Splitter()
    events = list(splitter.push(data))
    return not any(is_comment(event) or has_content(event) for event in events)


def is_stream(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a reply with these headers is one of events."""
    return any(
        name.lower() == "content-type" and value.startswith("text/event-stream")
        for name, value in headers
    )


def has_content(event: bytes) -> bool:
    """Whether a client has got a part of the answer once it has this event."""
    for line in event.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            data = json.loads(line[5:])
        except ValueError:
            return True
        if not isinstance(data, dict):
            return True
        kind = data.get("type")
        if kind is not None:
            return kind not in OPENING
        choices = data.get("choices")
        if not isinstance(choices, list):
            return True
        return not choices or any(_has_content(choice) for choice in choices)
    return False


def _has_content(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return True
    spoken = any(value for name, value in delta.items() if name != "role")
    return spoken or choice.get("finish_reason") is not None


def broken(path: str, message: str) -> bytes:
    """The event that ends an answer that broke off."""
    if path.startswith("/v1/messages"):
        data = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"
    error = {"message": message, "type": "server_error", "param": None, "code": "replica_lost"}
    if path.startswith("/v1/responses"):
        told: dict[str, str | None] = {**error, "type": "error"}
        return b"event: error\ndata: " + json.dumps(told).encode() + b"\n\n"
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def refused(path: str, message: str, code: str) -> bytes:
    """The body of a reply that refuses."""
    if path.startswith("/v1/messages"):
        kind = "overloaded_error" if code == "overloaded" else "api_error"
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return json.dumps({"error": error}).encode()
