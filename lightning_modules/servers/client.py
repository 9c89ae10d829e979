"""A client of one or several OpenAI-compatible servers that hold the same model."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from lightning_modules.servers.errors import RequestRefusedError, ServerError, ServersGoneError, words_of
from lightning_modules.servers.pool import AllServersDownError, Server, ServerPool

logger = logging.getLogger(__name__)

CHAT = "chat/completions"
_MODELS = "models"
_REFUSED = {400, 413, 415, 422}
"""Something is wrong with the request itself; to send it again would not help."""
_UNAVAILABLE = {502, 503}  # of 504 the request may be the cause, which takes too long for a gateway
"""The server behind the address is gone, or not there yet."""
_BUSY = {408, 425, 429}
_LONGEST_RETRY_PAUSE = 30.0
# Servers close connections that have been idle for 5 s (uvicorn's default), which would look like a failure.
_KEEP_ALIVE = 4.0
_VISIT_TIMEOUT = 10.0


@dataclass
class Usage:
    """What servers have counted so far.

    Attributes:
        requests: Answered requests.
        prompt_tokens: Their prompts, as often as they were sent.
        completion_tokens: Sampled tokens.
        retries: Requests that were sent once more because of a failure.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0

    def __str__(self) -> str:
        """In words."""
        return (
            f"{self.requests} requests, {self.prompt_tokens} prompt tokens, {self.completion_tokens} sampled tokens, "
            f"{self.retries} requests sent again"
        )


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
        self._worker: _Worker | None = None

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

    def _started(self) -> _Worker:
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self, _api_key(self.api_key_variable))
            return self._worker

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or the client in another process, opens connections of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_worker")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _worker=None)


class _Retry(Exception):
    """An attempt has failed, and another may not."""

    def __init__(self, problem: str, *, counts: bool, pause: float | None = None, status: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.counts, self.pause, self.status = problem, counts, pause, status


class _Worker:
    """The thread with the event loop, the connections and the servers' states."""

    def __init__(self, client: ServerClient, api_key: str | None) -> None:
        # Not the client itself: it is collected, and the thread ended, when nobody uses it any more.
        self.usage, self.max_attempts, self.base_url = client.usage, client.max_attempts, client.base_urls[0]
        self.api_key = api_key
        self.timeout = aiohttp.ClientTimeout(total=client.timeout, sock_connect=min(30.0, client.timeout))
        self.pool = ServerPool(client.base_urls, client.concurrency, client.patience, self._is_alive)
        self.session: aiohttp.ClientSession | None = None
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever, name="servers", daemon=True)
        thread.start()
        self.finalizer = weakref.finalize(client, _stop, self, thread)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def _session(self) -> aiohttp.ClientSession:
        if self.session is None:
            headers = {"Content-Type": "application/json"}
            if self.api_key is not None:
                headers["Authorization"] = f"Bearer {self.api_key}"
            # The pool bounds the number of connections.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
            # With trust_env aiohttp also takes logins from ~/.netrc, which are not meant for these servers.
            has_proxy = bool(urllib.request.getproxies())
            self.session = aiohttp.ClientSession(
                connector=connector, headers=headers, timeout=self.timeout, trust_env=has_proxy
            )
        return self.session

    async def ask(
        self,
        request_id: str,
        path: str,
        body: Mapping[str, Any],
        fault_of: Callable[[Mapping[str, Any]], str | None] | None,
        preferred: int | None,
    ) -> dict[str, Any]:
        """Send a request until it is answered or may not be sent again."""
        failures, failing_since = 0, None
        while True:
            try:
                server = await self.pool.take(preferred)
            except AllServersDownError as error:
                raise self._gone(request_id, path, str(error)) from error
            try:
                # Only now, since thousands of requests may wait, each with its pictures.
                answer = await self._attempt(server, request_id, path, json.dumps(body).encode())
                if fault_of is not None and (fault := fault_of(answer)) is not None:
                    raise _Retry(f"answered with {fault}", counts=True)
            except _Retry as failure:
                problem, status, pause = f"{server.url}/{path} {failure.problem}", failure.status, failure.pause
                failures += failure.counts
                failing_since = time.monotonic() if failing_since is None else failing_since
                if failures >= self.max_attempts:
                    raise ServerError(
                        request_id,
                        f"{server.url}/{path}",
                        f"{failure.problem}; given up after {failures} attempts",
                        status,
                    ) from failure
                if self.pool.waited_too_long(failing_since):
                    raise self._gone(request_id, path, problem) from failure
                if pause is None:
                    pause = min(_LONGEST_RETRY_PAUSE, 0.25 * 2**failures)
                self.usage.retries += 1
            else:
                self.pool.answered(server)
                self._count(answer)
                return answer
            finally:
                self.pool.give_back(server)
            await asyncio.sleep(min(_LONGEST_RETRY_PAUSE, pause) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    def _gone(self, request_id: str, path: str, problem: str) -> ServersGoneError:
        told = f"is not answered by any server; none has answered for {self.pool.patience:g} s (last: {problem})"
        return ServersGoneError(request_id, f"{self.base_url}/{path}", told)

    async def _attempt(self, server: Server, request_id: str, path: str, payload: bytes) -> dict[str, Any]:
        url = f"{server.url}/{path}"
        try:
            async with self._session().post(url, data=payload, allow_redirects=False) as response:
                status, retry_after = response.status, response.headers.get("Retry-After", "")
                body = await response.read()
        except aiohttp.ClientConnectorError as error:
            self.pool.has_gone(server, f"refuses connections ({error.strerror or error})")
            raise _Retry(f"refuses connections ({error.strerror or error})", counts=False, pause=0.0) from error
        except TimeoutError as error:
            problem = f"has not answered within {self.timeout.total:g} s"
            self.pool.has_gone(server, problem)
            raise _Retry(problem, counts=True) from error
        except aiohttp.ClientError as error:
            problem = f"broke the connection off ({type(error).__name__})"
            self.pool.has_gone(server, problem)
            raise _Retry(problem, counts=True) from error
        if status == 200:
            try:
                answer = json.loads(body)
            except ValueError:
                answer = None
            if isinstance(answer, dict):
                return answer
            raise _Retry(f"answered with what is no JSON object: {words_of(body, self.api_key)}", counts=True)
        told = f"answered {status}: {words_of(body, self.api_key)}"
        if status in _UNAVAILABLE:
            self.pool.has_gone(server, told)
            raise _Retry(told, counts=False, pause=0.0, status=status)
        if status in _BUSY:
            seconds = float(retry_after) if retry_after.isdigit() else None
            raise _Retry(told, counts=False, pause=1.0 if seconds is None else seconds, status=status)
        if status >= 500:
            raise _Retry(told, counts=True, status=status)
        kind = RequestRefusedError if status in _REFUSED else ServerError
        raise kind(request_id, url, told + await self._advice(server, status), status)

    async def _advice(self, server: Server, status: int) -> str:
        if status in (401, 403):
            return " (name the environment variable that holds the API key: api_key_variable)"
        if status == 404:
            try:
                return f" (it serves {', '.join(await self.models(server))}; an address usually ends in /v1)"
            except ServerError:
                return " (an address usually ends in /v1)"
        return ""

    async def models(self, server: Server | None = None) -> list[str]:
        url = f"{server.url if server else self.base_url}/{_MODELS}"
        try:
            async with self._session().get(url, timeout=aiohttp.ClientTimeout(_VISIT_TIMEOUT)) as response:
                status, body = response.status, await response.read()
            return [str(each["id"]) for each in json.loads(body)["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerError("models", url, f"does not answer ({error or type(error).__name__})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError("models", url, f"answered {status}: {words_of(body, self.api_key)}", status) from error

    async def _is_alive(self, server: Server) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(_VISIT_TIMEOUT)
            async with self._session().get(f"{server.url}/{_MODELS}", timeout=timeout) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _count(self, answer: Mapping[str, Any]) -> None:
        counts = answer.get("usage")
        self.usage.requests += 1
        if isinstance(counts, Mapping):
            self.usage.prompt_tokens += counts.get("prompt_tokens") or 0
            self.usage.completion_tokens += counts.get("completion_tokens") or 0

    async def shut(self) -> None:
        """Give up all that is outstanding."""
        self.pool.close()
        others = asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self.session is not None:
            await self.session.close()


def _stop(worker: _Worker, thread: threading.Thread) -> None:
    if threading.current_thread() is thread:
        # The last reference went there, and the loop cannot wait for itself.
        worker.loop.create_task(worker.shut()).add_done_callback(lambda _: worker.loop.stop())
        return
    asyncio.run_coroutine_threadsafe(worker.shut(), worker.loop).result(timeout=10)
    worker.loop.call_soon_threadsafe(worker.loop.stop)
    thread.join(timeout=10)
    worker.loop.close()


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
