"""Many requests to servers at once: sent while there is room, asked for again in smaller pieces, put together."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_modules.generation.engine import GeneratedText, GenerationRequest, RequestSource
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_requests import Piece, fault_of, pieces_of, texts_of
from lightning_modules.generation.stop_strings import cut_at_stop
from lightning_modules.servers.errors import RequestRefusedError, ServerError

if TYPE_CHECKING:
    from lightning_modules.generation.server_engine import ServerEngine


class _OpenRequest:
    """A request of the source that is not answered yet."""

    def __init__(self, request: GenerationRequest, parameters: SamplingParameters) -> None:
        self.request, self.parameters = request, parameters
        self.texts: list[GeneratedText | None] = [None] * len(request.sample_keys)
        self.futures: set[Future[dict[str, Any]]] = set()
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        for future in self.futures:
            future.cancel()


class _Landed(NamedTuple):
    """An answer that is there: for which piece, and for how many samples of it the server was asked."""

    found: _OpenRequest
    piece: Piece
    asked: int
    future: Future[dict[str, Any]]


class Flight:
    """The requests of one call of :meth:`.server_engine.ServerEngine.serve`: what is sent, and what comes back.

    Args:
        engine: Writes requests, and remembers from call to call what its servers can do.
        source: Gives requests and takes their texts.
        parameters: Of requests that have none of their own.
    """

    def __init__(self, engine: ServerEngine, source: RequestSource, parameters: SamplingParameters) -> None:
        self.engine, self.source, self.parameters = engine, source, parameters
        self.open: list[_OpenRequest] = []
        self.samples = 0
        self.done: SimpleQueue[_Landed] = SimpleQueue()

    def run(self) -> None:
        """Answer all requests of the source.

        Raises:
            PromptRefusedError: If a server refuses a prompt and the source does not leave it out.
            PromptMismatchError: If a server reads a prompt in other tokens than the processor.
            ServerError: If servers do not answer.
        """
        try:
            while True:
                self._take()
                if not self.open:
                    return
                self._handle(self.done.get())
                while not self.done.empty():
                    self._handle(self.done.get())
        finally:
            for each in self.open:
                each.close()

    def _take(self) -> None:
        """Take what there is room for: as much again as the servers answer at once, so that they never wait for us."""
        while True:
            room = 2 * self.engine.client.most_at_once * self.engine.samples_per_request - self.samples
            requests = self.source.take(room) if room > 0 else []
            for request in requests:
                if not request.sample_keys:
                    self.source.receive(request, [])
                    continue
                found = _OpenRequest(request, request.parameters or self.parameters)
                self.open.append(found)
                self.samples += len(found.texts)
                if request.partial_response:
                    self.engine.prompt_check.continuation()
                for piece in pieces_of(request.sample_keys, found.parameters, self.engine.samples_per_request):
                    self._send(found, piece)
            if not requests:
                return

    def _send(self, found: _OpenRequest, piece: Piece, most: int | None = None) -> None:
        """Ask for a piece, or only for the first ``most`` samples of it; the rest follows when these are there."""
        asked = piece if most is None else piece._replace(samples=min(most, piece.samples))
        body = self.engine.body(found.request, found.parameters, asked)
        name = found.request.sample_keys[piece.first]
        future = self.engine.client.submit(name, body, fault_of=fault_of)
        found.futures.add(future)
        future.add_done_callback(lambda future: self.done.put(_Landed(found, piece, asked.samples, future)))

    def _handle(self, landed: _Landed) -> None:
        found, piece = landed.found, landed.piece
        if found.is_closed:
            return
        found.futures.discard(landed.future)
        try:
            answer = landed.future.result()
        except RequestRefusedError as error:
            if landed.asked > 1:
                # Some servers give one sample a request and refuse to give more.
                self._send(found, piece, most=1)
            else:
                self._refuse(found, error)
            return
        texts = self._texts(found, found.request.sample_keys[piece.first], answer)[: landed.asked]
        if piece.seed is None:
            found.texts[:] = texts[:1] * len(found.texts)
        else:
            found.texts[piece.first : piece.first + len(texts)] = texts
            self._send_rest(found, piece, len(texts))
        if None not in found.texts:
            self._close(found)
            self.source.receive(found.request, [text for text in found.texts if text is not None])

    def _texts(self, found: _OpenRequest, name: str, answer: Mapping[str, Any]) -> list[GeneratedText]:
        self.engine.has_answered = True
        self.engine.prompt_check.prompt(found.request, answer, name)
        try:
            return [cut_at_stop(text, found.parameters.stop) for text in texts_of(answer)]
        except ValueError as error:
            urls = ", ".join(self.engine.client.base_urls)
            raise ServerError(name, urls, f"cannot be used: {error}") from error

    def _send_rest(self, found: _OpenRequest, piece: Piece, count: int) -> None:
        """Ask for what is missing of a piece of which a server gave ``count`` samples."""
        if count >= piece.samples or piece.seed is None:
            return
        self.engine.take_fewer(count, piece.samples)
        for place in range(count, piece.samples, count):
            rest = min(count, piece.samples - place)
            self._send(found, Piece(piece.first + place, rest, piece.seed + place))

    def _refuse(self, found: _OpenRequest, error: RequestRefusedError) -> None:
        self._close(found)
        problem = self.engine.note_refusal(error)
        # A source without `refuse` knows only prompts that are answered.
        if not hasattr(self.source, "refuse"):
            raise problem
        self.source.refuse(found.request, problem)

    def _close(self, found: _OpenRequest) -> None:
        found.close()
        self.open.remove(found)
        self.samples -= len(found.texts)
