"""Probabilities through a server that answers by plain forwards, beside the engine in this process."""

import pytest
from literal_server import literal_server

from datamodules.policy.chat import ChatRenderer
from lightning_modules.generation.engine import GenerationRequest
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.generation.token_probabilities import TokenProbabilities
from lightning_modules.generation.transformers_engine import TransformersEngine

OPTIONS = (("3", "The"), ("7",))


@pytest.fixture
def groups(processor, picture):
    renderer = ChatRenderer(processor)
    asked = [
        (
            "How many digits are larger than 4 ?",
            [picture(1)],
            ["", "The digits are ", "So 7", "The digits are 3 .\n\n"],
        ),
        ("How many?", [], ["The digits are 3 .\n\nSo"]),
    ]
    return [
        [GenerationRequest(renderer.messages(text, len(p)), p, [f"{number}/{n}"], each) for n, each in enumerate(parts)]
        for number, (text, p, parts) in enumerate(asked)
    ]


@pytest.fixture
def plain(sharp_model, processor):
    return TransformersEngine.of(sharp_model, processor)


def through(server, processor):
    engine = ServerEngine([server.url], "tiny", patience=5.0)
    engine.attach(None, processor)
    return engine


def flat(found):
    return [logprobs for group in found for logprobs in group]


@pytest.mark.parametrize("knows_ids", [True, False])
def test_options(sharp_checkpoint, processor, plain, groups, knows_ids):
    with literal_server(sharp_checkpoint, knows_ids=knows_ids, is_processed=not knows_ids) as server:
        engine = through(server, processor)
        assert isinstance(engine, TokenProbabilities)
        found = flat(engine.option_logprobs(groups, OPTIONS))
    for one, other in zip(found, flat(plain.option_logprobs(groups, OPTIONS)), strict=True):
        assert one.softmax(0).tolist() == pytest.approx(other.softmax(0).tolist(), abs=1e-5)
        if knows_ids:
            assert one.tolist() == pytest.approx(other.tolist(), abs=1e-4)


@pytest.mark.parametrize("cut_at", [None, 3])
def test_responses(sharp_checkpoint, processor, plain, groups, cut_at):
    with literal_server(sharp_checkpoint) as server:
        found = flat(through(server, processor).response_logprobs(groups, cut_at))
    for one, other in zip(found, flat(plain.response_logprobs(groups, cut_at)), strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-4)


def test_servers_that_tell_nothing(sharp_checkpoint, processor, groups):
    with literal_server(sharp_checkpoint, knows_ids=False) as server:
        engine = through(server, processor)
        with pytest.raises(ValueError, match="no exact way to ask for the probabilities of chosen tokens"):
            engine.option_logprobs(groups, OPTIONS)
    with (
        literal_server(sharp_checkpoint, tells_prompts=False) as server,
        pytest.raises(ValueError, match=r"0/1: .*the server does not tell how likely the tokens of a prompt"),
    ):
        through(server, processor).response_logprobs([groups[0][1:]])
    with pytest.raises(ValueError, match="set needs_processor to true"):
        ServerEngine(["http://localhost:1/v1"], "tiny", needs_processor=False).option_logprobs(groups, OPTIONS)
