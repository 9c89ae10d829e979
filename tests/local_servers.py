"""Real HTTP servers on this machine that answer as a test says."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]] | None
"""Status, body (bytes, or an object that is sent as JSON) and headers; None breaks the connection off."""


class _QuietServer(ThreadingHTTPServer):
    """Says nothing about clients that have not waited for an answer."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LocalServer:
    """A server at an address of its own.

    Args:
        answer: From the number of a request, from 0, and its JSON, to what is answered.
        port: Chosen by the system by default.

    Attributes:
        bodies: The requests, in the order of their arrival.
        headers: Of the same.
        most_at_once: The most requests that were being answered at the same time.
    """

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer], port: int = 0) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.visits = 0
        self.models: Answer = (200, {"data": [{"id": "tiny"}]})
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._server = _QuietServer(("127.0.0.1", port), self._handler())
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Break all connections off, and refuse new ones from now on."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with suppress(OSError):  # closed by the other side
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                owner._connections.append(self.connection)

            def do_GET(self) -> None:
                owner.visits += 1
                self.reply(owner.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    number = len(owner.bodies)
                    owner.bodies.append(body)
                    owner.headers.append(dict(self.headers))
                    owner._now += 1
                    owner.most_at_once = max(owner.most_at_once, owner._now)
                try:
                    answer = owner.answer(number, body)
                finally:
                    with owner._lock:
                        owner._now -= 1
                self.reply(answer)

            def reply(self, answer: Answer) -> None:
                if answer is None:
                    self.close_connection = True
                    return
                status, content, *rest = answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**(rest[0] if rest else {}), "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


@contextmanager
def serving(*answers: Callable[[int, dict[str, Any]], Answer]) -> Iterator[list[LocalServer]]:
    """Servers that answer so, until the block ends."""
    servers = [LocalServer(answer) for answer in answers]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def completion(*texts: str, prompt_tokens: int = 7) -> dict[str, Any]:
    """What a server answers to a chat."""
    choices = [
        {"index": number, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for number, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": sum(len(text.split()) for text in texts)}
    return {"choices": choices, "usage": usage}


def counting(number: int, body: dict[str, Any]) -> Answer:
    """A model whose texts say the seeds of their samples, in two steps; its prompts have a token for each letter."""
    begin = body.get("seed", 0)
    texts = [f"Seed {begin + index}.\n\nAnswer: {(begin + index) % 3}" for index in range(body["n"])]
    is_partial = body["messages"][-1]["role"] == "assistant"
    is_new_turn = not (is_partial and body.get("continue_final_message"))
    return 200, completion(*texts, prompt_tokens=len(str(body["messages"])) + 5 * is_new_turn)


def after(seconds: float, answer: Answer) -> Answer:
    """The answer, a while later."""
    time.sleep(seconds)
    return answer
