"""What can go wrong with a request to a server; messages name the request, the address and the server's own words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LONGEST_WORDS = 600
_LONGEST_ID = 120


class ServerError(RuntimeError):
    """A request that no server has answered.

    Args:
        request_id: Names the request.
        url: What was asked.
        problem: What is wrong, in the server's own words where it gave any.

    Attributes:
        status: HTTP status of the answer; None if there was no answer.
    """

    def __init__(self, request_id: str, url: str, problem: str, status: int | None = None) -> None:
        super().__init__(f"{shortened(request_id)}: {url} {problem}")
        self.request_id = request_id
        self.url = url
        self.problem = problem
        self.status = status


class RequestRefusedError(ServerError):
    """The server says that something is wrong with this very request, such as a prompt that is too long."""


class ServersGoneError(ServerError):
    """No server has answered for as long as a request may wait."""


def shortened(request_id: str) -> str:
    """A request's id on one line; a long one is cut."""
    line = request_id.encode("unicode_escape").decode("ascii") if "\n" in request_id else request_id
    return line if len(line) <= _LONGEST_ID else f"{line[:_LONGEST_ID]}..."


def words_of(body: bytes, secret: str | None = None) -> str:
    """What a server says in an answer that is an error.

    ``error`` is an object in most answers and a plain string in some; other servers give ``message`` or ``detail``.

    Args:
        body: Of the answer.
        secret: The API key; it is blotted out, since servers repeat a wrong one.
    """
    text = body.decode("utf-8", "replace").strip()
    try:
        found = _message(json.loads(text))
    except ValueError:
        found = text
    if secret:
        found = found.replace(secret, "***")
    found = " ".join(found.split())
    if not found:
        return "nothing"
    return found if len(found) <= _LONGEST_WORDS else f"{found[:_LONGEST_WORDS]}..."


def _message(answer: Any) -> str:
    for name in ("error", "message", "detail"):
        if isinstance(answer, Mapping) and answer.get(name):
            return _message(answer[name])
    return answer if isinstance(answer, str) else json.dumps(answer)
