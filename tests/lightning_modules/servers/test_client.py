"""The client against real HTTP servers that fail as a test says."""

import copy
import pickle
import threading
import time

import pytest
from local_servers import LocalServer, after, completion, serving

from lightning_modules.servers import pool
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import RequestRefusedError, ServerError, ServersGoneError

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(pool, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(pool, "LONGEST_PAUSE", 0.1)


@pytest.fixture
def connected():
    """Makes clients of servers; they are closed at the end."""
    clients = []

    def connect(servers, **options):
        clients.append(ServerClient([getattr(each, "url", each) for each in servers], **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def echo(number, body):
    return 200, completion(body["say"], prompt_tokens=3)


def says(answers):
    return [answer["choices"][0]["message"]["content"] for answer in answers]


def asked(count):
    return [(f"question {number}", {"say": f"word{number}"}) for number in range(count)]


def test_answers_come_in_the_order_of_the_requests_and_tokens_are_summed(connected):
    with serving(lambda number, body: after(0.05 * (number % 2 == 0), echo(number, body))) as servers:
        client = connected(servers)
        assert says(client.complete(asked(20))) == [f"word{number}" for number in range(20)]
        assert (client.usage.requests, client.usage.prompt_tokens, client.usage.completion_tokens) == (20, 60, 20)
        assert client.usage.retries == 0
        assert client.models() == ["tiny"]


def test_no_more_requests_at_once_than_allowed_and_the_free_server_gets_more(connected):
    slow, fast = (lambda n, body: after(0.2, echo(n, body))), (lambda n, body: after(0.01, echo(n, body)))
    with serving(slow, fast) as servers:
        client = connected(servers, concurrency=3)
        assert says(client.complete(asked(60))) == [f"word{number}" for number in range(60)]
        assert [server.most_at_once for server in servers] == [3, 3]
        assert len(servers[0].bodies) + len(servers[1].bodies) == 60
        # The slow one answers 15 a second, the fast one up to 300.
        assert len(servers[1].bodies) > 2 * len(servers[0].bodies)


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (500, {"error": {"message": "EngineCore died"}}),
        (502, b"<html>bad gateway</html>"),
        (503, {}),
        (200, b'{"choices": [{"mess'),
        (200, b"[1, 2]"),
        None,
    ],
    ids=["429", "500", "502", "503", "cut JSON", "a list", "broken off"],
)
def test_a_failure_that_may_pass_is_tried_again(failure, connected):
    with serving(lambda number, body: failure if number % 5 == 1 else echo(number, body)) as servers:
        client = connected(servers, concurrency=4)
        assert says(client.complete(asked(12))) == [f"word{number}" for number in range(12)]
        assert client.usage.requests == 12
        assert client.usage.retries == len(servers[0].bodies) - 12 > 0


def test_a_slow_answer_is_asked_for_again(connected):
    with serving(lambda number, body: after(5 if number == 0 else 0, echo(number, body))) as servers:
        client = connected(servers, timeout=0.4)
        assert says(client.complete(asked(3))) == ["word0", "word1", "word2"]
        assert client.usage.retries == 1


def test_a_request_that_always_fails_ends_the_attempts(connected):
    with serving(lambda n, body: (500, {"error": "no such luck"}) if body["say"] == "word2" else echo(n, body)) as (
        server,
    ):
        with pytest.raises(ServerError) as caught:
            connected([server], max_attempts=3).complete(asked(4))
        message = str(caught.value)
        assert "question 2" in message
        assert server.url in message
        assert "500: no such luck" in message
        assert "3 attempts" in message
        assert [body["say"] for body in server.bodies].count("word2") == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "maximum context length is 512", "code": 400}}, "maximum context length is 512"),
        ({"error": "maximum context length is 512"}, "maximum context length is 512"),
        ({"object": "error", "message": "maximum context length is 512"}, "maximum context length is 512"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, '"msg": "too many"'),
        (b"plain words", "plain words"),
        (b"", "nothing"),
    ],
)
def test_a_refused_request_is_not_sent_again_and_gives_the_servers_words(body, words, connected):
    with serving(lambda number, _: (400, body)) as (server,):
        with pytest.raises(RequestRefusedError) as caught:
            connected([server]).complete(asked(1))
        message = str(caught.value)
        assert message.startswith(f"question 0: {server.url}/chat/completions answered 400: ")
        assert words in message
        assert caught.value.status == 400
        assert len(server.bodies) == 1


def test_an_unknown_model_is_told_with_those_that_are_served(connected):
    with serving(lambda number, _: (404, {"error": {"message": "The model `large` does not exist."}})) as (server,):
        with pytest.raises(ServerError, match=r"does not exist\. \(it serves tiny") as caught:
            connected([server]).complete(asked(1))
        assert not isinstance(caught.value, RequestRefusedError)


def test_a_server_that_is_gone_waits_while_another_serves(connected):
    with serving(echo, echo) as (first, second):
        client = connected([first, second], concurrency=2, patience=60)
        client.complete(asked(8))
        assert min(len(first.bodies), len(second.bodies)) > 0
        first.stop()
        count = len(second.bodies)
        assert says(client.complete(asked(20))) == [f"word{number}" for number in range(20)]
        assert len(second.bodies) == count + 20
        again = LocalServer(echo, first.port)
        try:
            deadline = time.monotonic() + 20
            while not again.bodies and time.monotonic() < deadline:
                client.complete(asked(4))
            assert again.bodies
        finally:
            again.stop()


def test_requests_wait_for_a_server_that_is_gone_and_then_go_on(connected, caplog):
    with serving(echo) as (server,):
        client = connected([server], patience=60)
        client.complete(asked(2))
    futures = [client.submit(*each) for each in asked(10)]
    time.sleep(0.5)
    assert not any(future.done() for future in futures)
    with_it = LocalServer(echo, server.port)
    try:
        assert says([future.result(timeout=30) for future in futures]) == [f"word{number}" for number in range(10)]
        assert sorted(body["say"] for body in with_it.bodies) == [f"word{number}" for number in range(10)]
    finally:
        with_it.stop()
    # By the time it was asked, the connection was open still or not.
    assert "refuses connections" in caplog.text or "broke the connection off" in caplog.text
    assert "answers again" in caplog.text


@pytest.mark.parametrize("kind", ["refused", "503", "429"])
def test_a_server_that_stays_away_is_an_error_within_the_bound(kind, connected):
    answer = {"503": (503, {"error": "loading"}), "429": (429, {"error": "rate limit"}, {"Retry-After": "0"})}
    with serving(lambda *_: answer[kind]) as (server,):
        if kind == "refused":
            server.stop()
        begin = time.monotonic()
        with pytest.raises(ServersGoneError) as caught:
            connected([server], patience=1.0).complete(asked(3))
        assert 0.9 < time.monotonic() - begin < 20
        message = str(caught.value)
        assert "question" in message
        assert server.url in message
        assert "none has answered for 1 s" in message
        assert {"refused": "refuses connections", "503": "503: loading", "429": "429: rate limit"}[kind] in message
        server.stop = lambda: None if kind == "refused" else type(server).stop(server)


def test_the_key_is_sent_and_told_to_nobody(connected, monkeypatch, caplog):
    monkeypatch.setenv("TEST_SERVER_KEY", KEY)

    def refuse(number, body):
        return 401, {"error": f"Incorrect API key provided: {KEY}"}

    with serving(refuse) as (server,):
        client = connected([server], api_key_variable="TEST_SERVER_KEY")
        with pytest.raises(ServerError, match=r"401: Incorrect API key provided: \*\*\*.*api_key_variable") as caught:
            client.complete(asked(1))
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in str(caught.value)
        assert KEY not in caplog.text
        assert KEY not in repr(vars(client))
        assert KEY.encode() not in pickle.dumps(client)


def test_a_key_that_is_not_there_is_an_error_that_names_its_variable(monkeypatch):
    monkeypatch.delenv("TEST_SERVER_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment variable that it names is not set"):
        ServerClient(["http://127.0.0.1:9/v1"], api_key_variable="TEST_SERVER_KEY").submit("a", {})


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "at least one address"),
        (["localhost:8000"], "must be addresses such as"),
        (["http://me:secret@host/v1"], "an address for host holds a user name or password"),
    ],
)
def test_addresses_that_are_none(urls, words):
    with pytest.raises(ValueError, match=words) as caught:
        ServerClient(urls)
    assert "secret" not in str(caught.value)


def test_a_cancelled_request_makes_room(connected):
    with serving(lambda number, body: after(0.5 if number == 0 else 0, echo(number, body))) as (server,):
        client = connected([server], concurrency=1)
        first, second, third = (client.submit(*each) for each in asked(3))
        time.sleep(0.1)
        second.cancel()
        assert says([third.result(timeout=20), first.result(timeout=20)]) == ["word2", "word0"]
        assert [body["say"] for body in server.bodies] == ["word0", "word2"]


def test_a_copy_has_connections_of_its_own_and_no_thread_is_left(connected):
    def threads():
        return sum(thread.name == "servers" for thread in threading.enumerate())

    before = threads()  # of clients that earlier tests have not closed
    with serving(echo) as servers:
        client = connected(servers)
        client.complete(asked(1))
        copied = copy.deepcopy(client)
        assert says(copied.complete(asked(2))) == ["word0", "word1"]
        assert client.usage.requests == 1
        assert threads() == before + 2
        client.close()
        del copied
        assert threads() == before
        assert says(client.complete(asked(1))) == ["word0"]
