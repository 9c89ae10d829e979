"""Which of several servers gets the next request, and how long servers may be gone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds until a server that is down is looked at again: at first, and at most."""


class Server:
    """One address and what is known of it.

    Attributes:
        url: Base address, without a slash at its end.
        outstanding: Requests that it is answering.
        is_down: Whether it gets no requests now.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.outstanding = 0
        self.is_down = False
        self.failures_in_a_row = 0


class AllServersDownError(Exception):
    """All servers are down, and none has answered for as long as is allowed; the text says what is wrong."""


class ServerPool:
    """Gives each request the server with the fewest outstanding ones; used from one event loop.

    A server that is down gets none while others serve. It is looked at again, at growing intervals, until it answers.

    Args:
        urls: Base addresses.
        concurrency: Most requests that a server answers at once.
        patience: Seconds for which all servers may be down.
        is_alive: Asks a server whether it answers.
    """

    def __init__(
        self, urls: Sequence[str], concurrency: int, patience: float, is_alive: Callable[[Server], Awaitable[bool]]
    ) -> None:
        self.servers = [Server(url) for url in urls]
        self.concurrency = concurrency
        self.patience = patience
        self.last_answer = time.monotonic()
        self._is_alive = is_alive
        self._waiting: deque[tuple[asyncio.Future[Server], int | None]] = deque()
        self._visits: set[asyncio.Task[None]] = set()
        self._all_down_since: float | None = None
        self._problem = ""

    async def take(self, preferred: int | None = None) -> Server:
        """The server for a request, once there is room; give it back with :meth:`give_back`.

        Requests get their turn in the order of their calls.

        Args:
            preferred: Number of the server that gets the request if it has room; counted round.

        Raises:
            AllServersDownError: If all servers have been down for too long.
        """
        turn: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, preferred))
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result())
            raise

    def give_back(self, server: Server) -> None:
        """A server has answered a request, or failed to."""
        server.outstanding -= 1
        self._hand_out()

    def answered(self, server: Server) -> None:
        """Note that a server has answered a request well."""
        self.last_answer = time.monotonic()
        server.failures_in_a_row = 0

    def has_gone(self, server: Server, problem: str) -> None:
        """Note that a server does not answer; it gets no requests until it does."""
        if server.is_down:
            return
        if server.failures_in_a_row == 0:
            logger.warning(
                "%s %s; it is asked again until it answers, for at most %g s while no server answers",
                server.url,
                problem,
                self.patience,
            )
        server.is_down = True
        server.failures_in_a_row += 1
        self._problem = f"{server.url} {problem}"
        if self._all_down_since is None and all(each.is_down for each in self.servers):
            self._all_down_since = time.monotonic()
        visit = asyncio.get_running_loop().create_task(self._visit(server))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visit(self, server: Server) -> None:
        """Ask a server that is down whether it is alive until it is, or nobody waits for any server any more."""
        longest = min(LONGEST_PAUSE, max(FIRST_PAUSE, self.patience / 4))
        pause = min(longest, FIRST_PAUSE * 2 ** (server.failures_in_a_row - 1))
        while True:
            await asyncio.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311 - no secret
            if await self._is_alive(server):
                break
            if self._all_down_since is not None and self.waited_too_long(self._all_down_since):
                self._give_up()
            pause = min(longest, 2 * pause)
        logger.warning("%s answers again", server.url)
        server.is_down = False
        self._all_down_since = None
        self._hand_out()

    def waited_too_long(self, since: float) -> bool:
        """Whether no server has answered for too long, seen from a request that has waited since a time."""
        return time.monotonic() - max(since, self.last_answer) > self.patience

    def _give_up(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(AllServersDownError(self._problem))

    def _hand_out(self) -> None:
        while self._waiting:
            free = [each for each in self.servers if not each.is_down and each.outstanding < self.concurrency]
            if not free:
                return
            turn, preferred = self._waiting.popleft()
            if not turn.done():
                favourite = None if preferred is None else self.servers[preferred % len(self.servers)]
                server = (
                    favourite
                    if favourite is not None and favourite in free
                    else min(free, key=lambda each: each.outstanding)
                )
                server.outstanding += 1
                turn.set_result(server)

    def close(self) -> None:
        """Stop asking servers that are down."""
        for visit in self._visits:
            visit.cancel()
