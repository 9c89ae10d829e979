"""The thread of a client: an event loop, the connections, and what to do about every kind of failure."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import aiohttp

from lightning_modules.servers.errors import RequestRefusedError, ServerError, ServersGoneError, words_of
from lightning_modules.servers.pool import AllServersDownError, Server, ServerPool

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


class _Retry(Exception):
    """An attempt has failed, and another may not."""

    def __init__(self, problem: str, *, counts: bool, pause: float | None = None, status: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.counts, self.pause, self.status = problem, counts, pause, status


class Worker:
    """The thread with the event loop, the connections and the servers' states.

    Args:
        client: When it is collected, the thread ends; it is not kept.
        usage: Where tokens and requests are counted.
        base_urls: See :class:`lightning_modules.servers.client.ServerClient`, as the next ones.
        concurrency: Of each server.
        timeout: In seconds, of one answer.
        patience: In seconds.
        max_attempts: Of a request.
        api_key: Itself, not the name of a variable; None to send none.
    """

    def __init__(
        self,
        client: object,
        usage: Usage,
        base_urls: Sequence[str],
        concurrency: int,
        timeout: float,
        patience: float,
        max_attempts: int,
        api_key: str | None,
    ) -> None:
        self.usage, self.max_attempts, self.base_url = usage, max_attempts, base_urls[0]
        self.api_key = api_key
        self.timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(30.0, timeout))
        self.pool = ServerPool(base_urls, concurrency, patience, self._is_alive)
        self.session: aiohttp.ClientSession | None = None
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self.loop.run_forever, name="servers", daemon=True)
        thread.start()
        self.finalizer = weakref.finalize(client, _stop, self, thread)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run something in the thread; returns at once."""
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
        """Names of the models of a server, the first one by default."""
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


def _stop(worker: Worker, thread: threading.Thread) -> None:
    if threading.current_thread() is thread:
        # The last reference went there, and the loop cannot wait for itself.
        worker.loop.create_task(worker.shut()).add_done_callback(lambda _: worker.loop.stop())
        return
    asyncio.run_coroutine_threadsafe(worker.shut(), worker.loop).result(timeout=10)
    worker.loop.call_soon_threadsafe(worker.loop.stop)
    thread.join(timeout=10)
    worker.loop.close()
