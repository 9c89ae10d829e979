"""Answers the requests of a source with a model in this process: what begins, goes on and ends at each forward.

Texts that end make room for others at once. Questions are read once (:mod:`question_prefixes`), and samples that are
still the same are one row (:mod:`running_rows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lightning_modules.generation.engine import FinishReason, GeneratedText, GenerationRequest, RequestSource
from lightning_modules.generation.question_prefixes import Prefix, QuestionPrefixes
from lightning_modules.generation.running_rows import RunningRows
from lightning_modules.generation.sampling import SamplingParameters, pick_tokens, uniform_draws
from lightning_modules.generation.stop_strings import cut_at_stop
from lightning_modules.model.step_head import vocabulary_logits

_SHARE_OF_ROOM = 0.25  # requests that begin together are read together


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with a meaning for sampling.

    Attributes:
        end_ids: Tokens that end a text.
        banned_ids: Tokens that are never sampled.
        pad_id: Any valid token.
    """

    end_ids: Tensor
    banned_ids: Tensor
    pad_id: int


@dataclass(eq=False)
class _Answer:
    """A request, and what was sampled for it so far: for each key the ids, the end token included, and the reason."""

    request: GenerationRequest
    parameters: SamplingParameters
    prefix: Prefix
    prompt_tokens: int
    begun: int = 0
    left: int = 0
    sampled: list[tuple[tuple[int, ...], bool]] = field(default_factory=list)


class Serving:
    """One call of :meth:`lightning_modules.generation.engine.GenerationEngine.serve`.

    Args:
        model: In evaluation mode.
        processor: Its processor.
        vocabulary: Of the model.
        source: Where the requests come from.
        parameters: For requests that have none of their own.
        max_samples: Most samples in flight.
        max_prefix_tokens: See :class:`QuestionPrefixes`.
        with_all_ranks: Whether every forward needs all ranks, which serve sources of their own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        vocabulary: Vocabulary,
        source: RequestSource,
        parameters: SamplingParameters,
        max_samples: int,
        max_prefix_tokens: int,
        with_all_ranks: bool,
    ) -> None:
        self.model = model
        self.processor = processor
        self.source = source
        self.parameters = parameters
        self.max_samples = max_samples
        self.with_all_ranks = with_all_ranks
        self.prefixes = QuestionPrefixes(model, processor, max_prefix_tokens)
        self.rows = RunningRows(model, vocabulary.pad_id)
        self.device = self.rows.device
        self._end_ids = vocabulary.end_ids.numpy()
        self._banned_ids = vocabulary.banned_ids.to(self.device)
        self._waiting: deque[_Answer] = deque()
        self._may_have_more = True
        # Of the samples in flight: their row, their answer and their number in it, and where their draws are.
        self._row = np.zeros(0, dtype=np.int64)
        self._answer = np.zeros(0, dtype=object)
        self._number = np.zeros(0, dtype=np.int64)
        self._place = np.zeros(0, dtype=np.int64)
        self._draws = np.zeros((0, 0))
        self._free_places: list[int] = []

    @torch.no_grad()
    def run(self) -> None:
        """Answer until the source has no request left, and other ranks have none either."""
        while True:
            self._take()
            starts = self._begin()
            questions, behind = self.prefixes.unread()
            rounds = self._on_any_rank([len(questions), len(behind), len(self.rows), len(starts)])
            if not any(rounds):
                return
            for number in range(rounds[0]):
                self.prefixes.read_questions(questions[number] if number < len(questions) else [])
            for number in range(rounds[1]):
                self.prefixes.read_behind(behind[number] if number < len(behind) else [])
            parts = [self.rows.read()[: len(self.rows)]] if rounds[2] else []
            parts += [_last_state(prefix, length) for prefix, length in starts]
            if any(map(len, parts)):
                self._sample(vocabulary_logits(self.model, torch.cat(parts)), starts)
            else:
                vocabulary_logits(self.model, self._nothing())

    def _nothing(self) -> Tensor:
        """A hidden state of a rank that has nothing to sample, as the head needs all ranks, too."""
        width = self.model.config.get_text_config(decoder=True).hidden_size
        return torch.zeros(1, width, dtype=self.model.dtype, device=self.device)

    def _on_any_rank(self, counts: list[int]) -> list[int]:
        """The largest of each count on any rank, if forwards need all ranks."""
        if not (self.with_all_ranks and dist.is_available() and dist.is_initialized()):
            return counts
        most = torch.tensor(counts, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return [int(count) for count in most.tolist()]

    # ----------------------------------------------------------- beginning

    def _take(self) -> None:
        """Ask the source for requests, if there may be some and there is room."""
        while self._may_have_more:
            waiting = sum(len(answer.request.sample_keys) - answer.begun for answer in self._waiting)
            room = self.max_samples - len(self._row) - waiting
            if room < max(1, int(_SHARE_OF_ROOM * self.max_samples)):
                return
            requests = self.source.take(room)
            if not requests:
                # It has more at the earliest when there is more room, or an answer.
                self._may_have_more = False
                return
            for request in requests:
                if not request.sample_keys:
                    self.source.receive(request, [])
            requests = [request for request in requests if request.sample_keys]
            for request, (prefix, length) in zip(requests, self.prefixes.place(requests), strict=True):
                answer = _Answer(request, request.parameters or self.parameters, prefix, length)
                answer.left = len(request.sample_keys)
                answer.sampled = [((), False)] * answer.left
                self._waiting.append(answer)

    def _begin(self) -> list[tuple[Prefix, int]]:
        """Put waiting samples into the free places; a row for those of each answer."""
        starts: list[tuple[Prefix, int]] = []
        while self._waiting and len(self._row) < self.max_samples:
            answer = self._waiting[0]
            end = min(len(answer.request.sample_keys), answer.begun + self.max_samples - len(self._row))
            self._add(answer, range(answer.begun, end), len(self.rows) + len(starts))
            starts.append((answer.prefix, answer.prompt_tokens))
            answer.begun = end
            if end == len(answer.request.sample_keys):
                self._waiting.popleft()
        return starts

    def _add(self, answer: _Answer, numbers: range, row: int) -> None:
        parameters, count = answer.parameters, len(numbers)
        keys = list(answer.request.sample_keys[numbers.start : numbers.stop])
        self._make_room_for_draws(count, parameters.max_new_tokens)
        places = [self._free_places.pop() for _ in keys]
        if parameters.temperature > 0:
            draws = uniform_draws(parameters.seed, keys, parameters.max_new_tokens).numpy()
            self._draws[places, : parameters.max_new_tokens] = draws
        answers = np.empty(count, dtype=object)
        answers[:] = answer
        self._row = np.concatenate([self._row, np.full(count, row)])
        self._answer = np.concatenate([self._answer, answers])
        self._number = np.concatenate([self._number, np.array(numbers)])
        self._place = np.concatenate([self._place, np.array(places)])

    def _make_room_for_draws(self, samples: int, limit: int) -> None:
        have, width = self._draws.shape
        missing = max(0, samples - len(self._free_places))
        if missing or limit > width:
            larger = np.zeros((have + missing, max(width, limit)))
            larger[:have, :width] = self._draws
            self._draws = larger
            self._free_places += range(have, have + missing)

    # ------------------------------------------------------------ sampling

    def _sample(self, logits: Tensor, starts: Sequence[tuple[Prefix, int]]) -> None:
        """Pick the next token of each sample, end texts and branch rows."""
        logits = logits.index_fill(-1, self._banned_ids, float("-inf"))
        counts = np.concatenate([self.rows.counts, np.zeros(len(starts), dtype=np.int64)])[self._row]
        tokens = self._pick(logits, self._draws[self._place, counts])
        limits = np.array([answer.parameters.max_new_tokens for answer in self._answer])
        has_ended = np.isin(tokens, self._end_ids)
        is_over = has_ended | (counts + 1 >= limits) | self._have_stopped(tokens)
        for index in is_over.nonzero()[0].tolist():
            row = int(self._row[index])
            answer: _Answer = self._answer[index]
            answer.sampled[self._number[index]] = ((*self._before(row), int(tokens[index])), bool(has_ended[index]))
            answer.left -= 1
        goes_on = ~is_over
        vocabulary = logits.shape[-1]
        pairs, of_pair = np.unique(self._row[goes_on] * vocabulary + tokens[goes_on], return_inverse=True)
        rows = self.rows.branch(pairs // vocabulary, pairs % vocabulary, starts)
        finished = dict.fromkeys(answer for answer in self._answer[is_over] if not answer.left)
        if is_over.any():
            self._free_places += self._place[is_over].tolist()
            self._answer, self._number = self._answer[goes_on], self._number[goes_on]
            self._place = self._place[goes_on]
            self._may_have_more = True
        self._row = rows[of_pair]
        for answer in finished:
            self.prefixes.release(answer.prefix)
            self.source.receive(answer.request, self._texts(answer))

    def _have_stopped(self, tokens: np.ndarray) -> np.ndarray:
        """Whether each sample holds a stop string with its next token."""
        found = np.zeros(len(tokens), dtype=bool)
        known: dict[tuple[int, int], bool] = {}
        for index, (answer, row, token) in enumerate(
            zip(self._answer, self._row.tolist(), tokens.tolist(), strict=True)
        ):
            if stop := answer.parameters.stop:
                if (row, token) not in known:
                    text = self.processor.tokenizer.decode([*self._before(row), token], skip_special_tokens=True)
                    known[row, token] = any(string in text for string in stop)
                found[index] = known[row, token]
        return found

    def _before(self, row: int) -> list[int]:
        """What was sampled for a row, or for a text that begins behind the rows: nothing."""
        return self.rows.sampled(row) if row < len(self.rows) else []

    def _pick(self, logits: Tensor, draws: np.ndarray) -> np.ndarray:
        """The next token of each sample, of the distribution of its row."""
        order = np.argsort(self._row, kind="stable")
        first = np.searchsorted(self._row[order], np.arange(len(logits)))
        column = np.empty_like(order)
        column[order] = np.arange(len(order)) - first[self._row[order]]
        uniform = np.zeros((len(logits), int(column.max()) + 1))
        uniform[self._row, column] = draws
        of_row: list[SamplingParameters] = [answer.parameters for answer in self._answer[order[first]]]
        picked = np.empty(uniform.shape, dtype=np.int64)
        ways: dict[tuple[float, float, int | None], list[int]] = {}
        for row, each in enumerate(of_row):
            ways.setdefault((each.temperature, each.top_p, each.top_k), []).append(row)
        for (temperature, top_p, top_k), rows in ways.items():
            some = slice(None) if len(ways) == 1 else rows
            of_device = torch.from_numpy(uniform[some]).to(self.device)
            picked[some] = pick_tokens(logits[some], of_device, temperature, top_p, top_k).cpu().numpy()
        found: np.ndarray = picked[self._row, column]
        return found

    def _texts(self, answer: _Answer) -> list[GeneratedText]:
        """Decode what was sampled; equal texts once."""
        distinct = dict.fromkeys(answer.sampled)
        ids = [list(tokens[:-1] if has_ended else tokens) for tokens, has_ended in distinct]
        texts = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        made = {}
        for sampled, text in zip(distinct, texts, strict=True):
            reason: FinishReason = "stop" if sampled[1] else "length"
            found = GeneratedText(text, reason, answer.prompt_tokens, len(sampled[0]))
            made[sampled] = cut_at_stop(found, answer.parameters.stop)
        return [made[sampled] for sampled in answer.sampled]


def _last_state(prefix: Prefix, length: int) -> Tensor:
    """Last hidden state (1, hidden) of the first ``length`` tokens of a prefix that was read."""
    assert prefix.hidden_states is not None
    return prefix.hidden_states[length - 1 : length]
