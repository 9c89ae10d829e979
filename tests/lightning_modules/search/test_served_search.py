"""A search through a server that answers over HTTP: beginnings are continued, and steps are told from ends."""

from local_servers import serving

from datamodules.policy.chat import ChatRenderer
from datamodules.policy.prompt_batches import PromptCollator
from datamodules.policy.prompts import Prompt
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.search.options import SearchOptions
from lightning_modules.search.window import SearchWindow


def three_steps(number, body):
    """Each sample is a digit of its seed; a blank line follows, at which the request stops, but for the third step."""
    last = body["messages"][-1]
    continues = bool(body.get("continue_final_message"))
    done = last["content"].count("\n\n") if continues else 0
    texts = [f"{(body.get('seed', 0) + index) % 7}{'' if done == 2 else chr(10) * 2}" for index in range(body["n"])]
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"} for index, text in enumerate(texts)
    ]
    words = sum(len(message["content"].split()) for message in body["messages"])
    return 200, {
        "choices": choices,
        "usage": {"prompt_tokens": words + 2 * (not continues), "completion_tokens": 2 * body["n"]},
    }


def digits(texts):
    return [[[int(step) / 10 for step in text.split("\n\n")] for text in of_question] for _, of_question in texts]


def searched(server, names):
    prompts = [Prompt(name, "Why?", (), "2", "s", list, None) for name in names]
    batch = PromptCollator(ChatRenderer(None))(prompts)
    window = SearchWindow(
        batch, SearchOptions(width=2, expansion=3), SamplingParameters(temperature=1.0, seed=1), digits, "mean"
    )
    engine = ServerEngine([server.url], "tiny", needs_processor=False, patience=20.0)
    engine.attach(None, None)
    window.run(engine)
    return [search.tree for search in window.searches]


def test_a_search_through_a_server():
    with serving(three_steps) as (server,):
        first, second = searched(server, ["a", "b"])
        bodies = [body for body in server.bodies if body["n"] > 1]
        (again,) = searched(server, ["b"])
    assert second.record() == again.record()
    assert {node.depth for node in first.finished} == {3}
    assert first.sampled_tokens == 2 * first.samples
    # The six first steps of a question are one request, and so are the three of each beam.
    assert {(body["n"], body.get("continue_final_message", False)) for body in bodies} == {(6, False), (3, True)}
    assert all(body["stop"] == ["\n\n"] and body["include_stop_str_in_output"] for body in bodies)
    assert all(body["messages"][-1]["content"].endswith("\n\n") for body in bodies if body["n"] == 3)
