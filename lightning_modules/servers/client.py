"""A client of one or several OpenAI-compatible servers that hold the same model."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

from lightning_modules.servers.worker import Usage, Worker

CHAT = "chat/completions"


class ServerClient:
    """Sends requests to servers that hold the same model, many at once.

    A request goes to the server with the fewest outstanding ones. It is sent again, with growing pauses, after HTTP
    408, 425, 429 and 5xx, time-outs, broken connections, and answers that are no JSON object. A server that refuses
    connections gets no requests until it answers again. Requests wait for that, or are answered by the other servers.

    The work is done by a thread with an event loop, begun with the first request. All methods may be called from any
    thread.

    Args:
        base_urls: Addresses as in ``http://host:8000/v1``.
        concurrency: Most requests that a server answers at once, at least 1.
        api_key_variable: Name of the environment variable that holds the API key; no key is sent by default.
        timeout: Seconds that one answer may take.
        patience: Seconds for which no server may answer before requests fail.
        max_attempts: How often a request may fail on servers that answer others, before it counts as failed.

    Attributes:
        usage: What the servers have counted.

    Raises:
        ValueError: If an address is none, or holds a user name or password, or a number is out of range.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        concurrency: int = 32,
        api_key_variable: str | None = None,
        timeout: float = 1800.0,
        patience: float = 600.0,
        max_attempts: int = 10,
    ) -> None:
        self.base_urls = [_checked(url) for url in ([base_urls] if isinstance(base_urls, str) else base_urls)]
        if not self.base_urls:
            raise ValueError("base_urls must name at least one address, such as http://localhost:8000/v1")
        if api_key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_variable):
            raise ValueError("api_key_variable must be the name of an environment variable, not the key itself")
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("timeout", timeout, 0),
            ("patience", patience, 0),
            ("max_attempts", max_attempts, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.concurrency = concurrency
        self.api_key_variable = api_key_variable
        self.timeout = timeout
        self.patience = patience
        self.max_attempts = max_attempts
        self.usage = Usage()
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    @property
    def most_at_once(self) -> int:
        """How many requests all servers together answer at once."""
        return self.concurrency * len(self.base_urls)

    def submit(
        self,
        request_id: str,
        body: Mapping[str, Any],
        path: str = CHAT,
        fault_of: Callable[[Mapping[str, Any]], str | None] | None = None,
        preferred: int | None = None,
    ) -> Future[dict[str, Any]]:
        """Send a request; returns at once.

        Args:
            request_id: Names the request in errors.
            body: Of the request, to be written as JSON; it must not be changed until there is an answer.
            path: Below the base address.
            fault_of: Says what is wrong with an answer, if anything is; the request is then sent again. It is called by
                another thread.
            preferred: Number of the server that gets the request if it has room, counted round. Requests that begin
                alike are better off at the same server, which has read their beginning already.

        Returns:
            The answer's JSON object. To cancel it gives the request up. It raises :class:`RequestRefusedError` if
            something is wrong with the request, :class:`ServersGoneError` if no server answers for too long, and
            otherwise :class:`ServerError`.

        Raises:
            ValueError: If the environment variable of the API key is not set.
        """
        worker = self._started()
        return worker.run(worker.ask(request_id, path, body, fault_of, preferred))

    def complete(
        self,
        requests: Iterable[tuple[str, Mapping[str, Any]]],
        path: str = CHAT,
        preferred: Iterable[int | None] | None = None,
    ) -> list[dict[str, Any]]:
        """Send requests and wait for all answers.

        Args:
            requests: Id and body of each.
            path: Below the base address.
            preferred: For each of them, see :meth:`submit`.

        Returns:
            The answers in the order of the requests.

        Raises:
            ServerError: As of the first one that fails; the others are given up. See :meth:`submit`.
        """
        numbers = repeat(None) if preferred is None else preferred
        futures = [
            self.submit(request_id, body, path, preferred=number)
            for (request_id, body), number in zip(requests, numbers, strict=False)
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()) is not None:
                    raise error
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def models(self) -> list[str]:
        """Names of the models that the first server holds.

        Raises:
            ServerError: If it does not say.
        """
        worker = self._started()
        return worker.run(worker.models()).result()

    def close(self) -> None:
        """Give up what is outstanding and close all connections; the next request opens new ones."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.finalizer()

    def _started(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = Worker(
                    self,
                    self.usage,
                    self.base_urls,
                    self.concurrency,
                    self.timeout,
                    self.patience,
                    self.max_attempts,
                    _api_key(self.api_key_variable),
                )
            return self._worker

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or the client in another process, opens connections of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_worker")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _worker=None)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if "@" in url:
        host = url.rpartition("@")[2].partition("/")[0]
        raise ValueError(
            f"base_urls: an address for {host} holds a user name or password; put the API key into an environment "
            f"variable and name that: api_key_variable"
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"base_urls must be addresses such as http://localhost:8000/v1, got {url!r}")
    return url.rstrip("/")


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            "api_key_variable: the environment variable that it names is not set; put the API key into that variable"
        )
    return key
