"""A proxy before a real server, which spoils some of its answers and can be gone for a while."""

import json
import threading
import urllib.error
import urllib.request
from typing import Any

from local_servers import LocalServer


class FaultProxy:
    """Hands requests on.

    Args:
        url: Base address of the server behind it.
        every: Every so many answers one is spoilt: by turns it becomes HTTP 500 and JSON that is cut short.

    Attributes:
        spoilt: How many answers were.
        answered: Requests that were answered well.
    """

    def __init__(self, url: str, every: int = 0) -> None:
        self.target, self.every = url, every
        self.spoilt = self.answered = 0
        self._lock = threading.Lock()
        self._server: LocalServer | None = LocalServer(self._answer)
        self.port, self.url = self._server.port, self._server.url

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked for, since it was last started."""
        assert self._server is not None
        return self._server.bodies

    def stop(self) -> None:
        """Break everything off, and refuse connections."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def start(self) -> None:
        """Be there again, at the same address."""
        self._server = LocalServer(self._answer, self.port)

    def _answer(self, number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"{self.target}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        with self._lock:
            if self.every and (self.spoilt + self.answered) % self.every == self.every - 1:
                self.spoilt += 1
                is_error = self.spoilt % 2 == 1
                return (500, b'{"error": "out of luck"}') if is_error else (200, content[: len(content) // 2])
            self.answered += 1
        return status, content
