"""The engine against small HTTP servers that answer as a test says; real ones are in test_real_server.py."""

from collections import Counter

import pytest
from local_servers import after, serving

from lightning_modules.generation.engine import GenerationRequest, PromptRefusedError
from lightning_modules.generation.listed_requests import ListedRequests
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_check import PromptMismatchError
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.generation.server_requests import Piece, sample_seed
from lightning_modules.generation.transformers_engine import engine_settings
from lightning_modules.servers.errors import ServerError

WARM = SamplingParameters(temperature=1.0, max_new_tokens=8, seed=1)


class Model:
    """What a server answers: each sample says its seed, prompts count their words.

    Args:
        most: Samples that it gives for one request.
        refuses_more: Whether it refuses requests for more, or gives fewer without a word.
        continues: Whether it knows `continue_final_message`.
        refuse: Prompts with this word get 400.
    """

    def __init__(self, most=99, *, refuses_more=False, continues=True, refuse=None, delay=0.0):
        self.most, self.refuses_more, self.continues = most, refuses_more, continues
        self.refuse, self.delay = refuse, delay

    def __call__(self, number, body):
        text = " ".join(message["content"] for message in body["messages"])
        if self.refuse and self.refuse in text:
            return 400, {"error": {"message": "This model's maximum context length is 512 tokens."}}
        if body["n"] > self.most and self.refuses_more:
            return 400, {"error": {"message": "n must be 1"}}
        is_new_turn = not (body.get("continue_final_message") and self.continues)
        choices = [
            {
                "index": index,
                "message": {"content": f"{text}|{body.get('seed', 0) + index}|tail"},
                "finish_reason": "stop",
            }
            for index in range(min(body["n"], self.most))
        ]
        usage = {"prompt_tokens": len(text.split()) + 2 * is_new_turn, "completion_tokens": 3 * len(choices)}
        return after(self.delay, (200, {"choices": choices[::-1], "usage": usage}))


def engine_of(servers, **options):
    urls = [server.url for server in servers]
    engine = ServerEngine(urls, "tiny", needs_processor=False, **{"patience": 20.0, **options})
    engine.attach(None, None)
    return engine


def request(name, samples=4, partial=""):
    content = [{"type": "text", "text": f"question {name}"}]
    keys = [f"{name}/{number}" for number in range(samples)]
    return GenerationRequest([{"role": "user", "content": content}], [], keys, partial)


def expected(name, samples=4, partial=""):
    shown = f"question {name} {partial}" if partial else f"question {name}"
    return [f"{shown}|{sample_seed(1, f'{name}/{number}')}|tail" for number in range(samples)]


def texts(answers):
    return [[text.text for text in each] for each in answers]


@pytest.mark.parametrize(
    ("model", "requests"),
    [
        (Model(), [4, 2]),
        (Model(3), [4, 2, 1]),  # three of four come, and the rest is asked for
        (Model(1), [4, 2, 1, 1, 1, 1]),
        (Model(1, refuses_more=True), [4, 2, 1, 1, 1, 1, 1, 1]),
    ],
    ids=["all", "three", "one", "one, and refuses more"],
)
def test_a_sample_is_the_same_however_a_server_gives_it(model, requests):
    with serving(model) as servers:
        engine = engine_of(servers, samples_per_request=4, concurrency=1)
        found = engine.sample([request("a", 6)], WARM)
        assert texts(found) == [expected("a", 6)]
        assert Counter(body["n"] for body in servers[0].bodies) == Counter(requests)
        assert engine.usage.retries == 0
        # What is known now is not tried again.
        servers[0].bodies.clear()
        assert texts(engine.sample([request("b", 6)], WARM)) == [expected("b", 6)]
        assert max(body["n"] for body in servers[0].bodies) == min(4, model.most)
        assert len(servers[0].bodies) == -(-6 // min(4, model.most))


def test_many_prompts_over_two_servers_and_partial_solutions():
    with serving(Model(delay=0.02), Model(delay=0.02)) as servers:
        engine = engine_of(servers, concurrency=4)
        asked = [request(f"p{number}", 3, "So far" if number % 2 else "") for number in range(30)]
        assert texts(engine.sample(asked, WARM)) == [
            expected(f"p{number}", 3, "So far" if number % 2 else "") for number in range(30)
        ]
        assert min(len(server.bodies) for server in servers) > 5
        assert max(server.most_at_once for server in servers) <= 4


def test_greedy_is_asked_for_once_and_given_to_all_samples():
    with serving(Model()) as servers:
        found = engine_of(servers).sample([request("a", 3)], SamplingParameters(temperature=0))
        assert texts(found) == [["question a|0|tail"] * 3]
        assert len(servers[0].bodies) == 1


def test_stop_strings_cut_what_the_server_gives():
    with serving(Model()) as servers:
        found = engine_of(servers).sample([request("a", 1)], SamplingParameters(seed=1, stop=("|ta",)))
        assert texts(found) == [[expected("a", 1)[0].removesuffix("|tail")]]
        assert found[0][0].finish_reason == "stop"
        assert servers[0].bodies[0]["stop"] == ["|ta"]


def test_a_server_that_answers_partial_solutions_with_a_new_turn_is_refused():
    with serving(Model(continues=False)) as servers:
        engine = engine_of(servers)
        engine.sample([request("a", 1)], WARM)
        with pytest.raises(PromptMismatchError, match="partial solutions are not continued") as caught:
            engine.sample([request("b", 1, "So far")], WARM)
        assert servers[0].url in str(caught.value)


def test_the_continuation_of_partial_solutions_is_checked_once():
    with serving(Model()) as servers:
        engine = engine_of(servers)
        for name in "abc":
            engine.sample([request(name, 1, "So far")], WARM)
        assert len(servers[0].bodies) == 2 + 3


def test_a_refused_prompt_is_an_error_that_names_it_or_is_left_out():
    with serving(Model(refuse="long")) as servers:
        engine = engine_of(servers)
        asked = [request("a", 2), request("long", 2), request("c", 2)]
        with pytest.raises(
            PromptRefusedError, match=r"long/0: http.* answered 400: This model's maximum context"
        ) as caught:
            engine.sample(asked, WARM)
        assert servers[0].url in str(caught.value)
        left_out = {}
        listed = ListedRequests(asked, lambda number, problem: left_out.update({number: str(problem)}))
        engine.serve(listed, WARM)
        assert {number: [text.text for text in found] for number, found in listed.texts.items()} == {
            0: expected("a", 2),
            2: expected("c", 2),
        }
        assert list(left_out) == [1]


def test_where_everything_is_refused_the_settings_are_wrong():
    with serving(Model(refuse="question")) as servers:
        listed = ListedRequests([request(str(number), 1) for number in range(40)], lambda number, problem: None)
        with pytest.raises(ServerError, match="and has answered none"):
            engine_of(servers, concurrency=2).serve(listed, WARM)
        assert len(servers[0].bodies) < 30


def test_an_answer_decides_what_is_asked_next():
    """The source is asked by one thread, the calling one, while others are in flight."""
    import threading

    class Chain:
        def __init__(self):
            self.left, self.answers, self.threads = {"a": 3, "b": 2}, [], set()
            self.ready = [request("a0", 1), request("b0", 1)]

        def take(self, room):
            self.threads.add(threading.current_thread())
            taken, self.ready = self.ready, []
            return taken

        def receive(self, asked, found):
            self.threads.add(threading.current_thread())
            name, number = asked.sample_keys[0][0], int(asked.sample_keys[0][1])
            self.answers.append(found[0].text)
            if number + 1 < self.left[name]:
                self.ready.append(request(f"{name}{number + 1}", 1))

    with serving(Model()) as servers:
        chain = Chain()
        engine_of(servers).serve(chain, WARM)
        assert sorted(chain.answers) == sorted(expected(name, 1)[0] for name in ("a0", "a1", "a2", "b0", "b1"))
        assert chain.threads == {threading.current_thread()}


def test_fields_of_requests_can_be_changed_and_left_out():
    with serving(Model()) as servers:
        engine_of(servers, extra_body={"top_k": None, "priority": 3}).sample([request("a", 1)], WARM)
        assert "top_k" not in servers[0].bodies[0]
        assert servers[0].bodies[0]["priority"] == 3


def test_what_predictions_depend_on():
    one = ServerEngine(["http://a:1/v1"], "tiny")
    other = ServerEngine(["http://b:2/v1", "http://c:3/v1"], "tiny", concurrency=3, samples_per_request=1)
    assert engine_settings(one) == engine_settings(other)
    assert engine_settings(one) != engine_settings(ServerEngine(["http://a:1/v1"], "large"))
    assert engine_settings(one)["engine"] == "lightning_modules.generation.server_engine.ServerEngine"


def test_tokens_that_no_text_may_hold_are_ruled_out(tiny_processor, tiny_checkpoint):
    """Of pictures, and padding unless it ends texts: what the in-process engine never samples."""
    tokenizer = tiny_processor.tokenizer
    engine = ServerEngine(["http://127.0.0.1:9/v1"], "tiny")
    engine.attach(None, tiny_processor)
    body = engine.body(request("a", 1), WARM, Piece(0, 1, 3))
    expected = tokenizer.convert_tokens_to_ids(["<|pad|>", "<img>", "</img>", "<IMG_CONTEXT>"])
    assert body["logit_bias"] == {str(token): -100 for token in expected}
