"""Sampling through a real vLLM server, beside the same checkpoint in this process. One server for all of these tests.

The folder's generation_config.json asks for sampling that no test wants, so that a parameter which is not sent shows.
"""

import pytest
import server_runs
import torch
from PIL import Image
from server_runs import ANNOTATOR, POLICY, ServedRuns
from tiny_families import write_family
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from vllm_server import MODEL, vllm_server

from lightning_modules.generation.engine import GenerationRequest, PromptRefusedError
from lightning_modules.generation.sampling import SamplingParameters
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.model.backbone import load_processor
from lightning_modules.servers.client import ServerClient
from lightning_modules.servers.errors import ServerError
from lightning_modules.servers.messages import PictureEncoder

pytestmark = pytest.mark.server

GREEDY = SamplingParameters(temperature=0, max_new_tokens=16)
WARM = SamplingParameters(temperature=1.0, max_new_tokens=12, seed=5)
PARTIAL = ["", "The digits are 3", "The digits are 3, 7 and 9.\n\n"]


@pytest.fixture(scope="module", params=["internvl_qwen2", pytest.param("qwen2_5_vl", marks=pytest.mark.thorough)])
def checkpoint(request, tmp_path_factory):
    """Heads of 32, the smallest that vLLM knows on a CPU."""
    folder = tmp_path_factory.mktemp(request.param)
    write_family(request.param, folder, head_size=32)
    config = GenerationConfig.from_pretrained(folder)
    config.update(do_sample=True, temperature=1.9, top_k=1, top_p=0.1, repetition_penalty=5.0)
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    with vllm_server(checkpoint, tmp_path_factory.mktemp("vllm") / "log.txt") as started:
        yield started


@pytest.fixture(scope="module")
def processor(checkpoint):
    return load_processor(checkpoint)


@pytest.fixture(scope="module")
def in_process(checkpoint, processor):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    return TransformersEngine.of(model, processor)


@pytest.fixture
def through(server, processor):
    """Makes engines of the server."""
    engines = []

    def make(**options):
        engines.append(ServerEngine([server.url], MODEL, **{"patience": 60.0, **options}))
        engines[-1].attach(None, processor)
        return engines[-1]

    yield make
    for engine in engines:
        engine.client.close()


def picture(number):
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, [(32, 32, 3), (32, 64, 3), (64, 40, 3)][number % 3], generator=generator)
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def asked(question, pictures=0, partial="", samples=1, **more):
    images = [picture(number) for number in range(pictures)]
    content = [*[{"type": "image"}] * pictures, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    keys = [f"{question}/{pictures}/{partial}/{number}" for number in range(samples)]
    return GenerationRequest(messages, images, keys, partial, **more)


def whole_characters(answers):
    """Without a character that is cut at the end: vLLM leaves it out, and `transformers` writes a sign for it."""
    return [[text._replace(text=text.text.rstrip("\ufffd")) for text in each] for each in answers]


QUESTIONS = ["How many digits are larger than 4?", "So 3 + 4 = 7?"]
ALL_KINDS = [
    asked(question, pictures, partial) for question in QUESTIONS for pictures in (0, 1, 2) for partial in PARTIAL
]


def test_greedy_texts_are_those_of_the_engine_in_process(in_process, through):
    """The server's engine compares the token ids of the first prompt of each kind by itself, too."""
    found = whole_characters(through().sample(ALL_KINDS, GREEDY))
    assert found == whole_characters(in_process.sample(ALL_KINDS, GREEDY))
    assert len({texts[0].text for texts in found}) > 6


def test_prompts_are_the_same_tokens(server, checkpoint):
    """Of every prompt, as plain `transformers` reads it."""
    processor, client = AutoProcessor.from_pretrained(checkpoint), ServerClient([server.url])
    for request in ALL_KINDS:
        messages = PictureEncoder().chat(request.messages, request.images, request.partial_response)
        flags = {"continue_final_message": True, "add_generation_prompt": False} if request.partial_response else {}
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": 1,
            "temperature": 0,
            "return_token_ids": True,
            **flags,
        }
        (answer,) = client.complete([("ids", body)])
        chat = processor.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        text, images = chat + request.partial_response, [list(request.images)] if request.images else None
        expected = processor(text=[text], images=images, add_special_tokens=False)["input_ids"][0]
        assert answer["prompt_token_ids"] == list(expected)
    client.close()


def test_probabilities_of_the_next_token(server, in_process, through):
    for request in ALL_KINDS[::4]:
        messages = PictureEncoder().chat(request.messages, request.images, request.partial_response)
        flags = {"continue_final_message": True, "add_generation_prompt": False} if request.partial_response else {}
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": 1,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            "logprobs": True,
            "top_logprobs": 20,
            "return_tokens_as_token_ids": True,
            **flags,
        }
        client = through().client
        (answer,) = client.complete([("logprobs", body)])
        of_server = {
            int(each["token"].removeprefix("token_id:")): each["logprob"]
            for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        }
        with torch.no_grad():
            text = in_process.processor.apply_chat_template(
                request.messages, add_generation_prompt=True, tokenize=False
            )
            inputs = in_process.processor(
                text=[text + request.partial_response],
                images=[list(request.images)] if request.images else None,
                add_special_tokens=False,
                return_tensors="pt",
            )
            logprobs = in_process.model(**inputs).logits[0, -1].log_softmax(-1)
        assert len(of_server) >= 20
        for token, logprob in of_server.items():
            assert abs(logprobs[token].item() - logprob) < 1e-3


def test_probabilities_of_options_and_responses(in_process, through):
    """As judges and likelihoods ask for them."""
    options, engine = (("3", "The"), ("7",)), through()
    groups = [[request] for request in ALL_KINDS[::2]]
    for of_server, ours in zip(
        engine.option_logprobs(groups, options), in_process.option_logprobs(groups, options), strict=True
    ):
        assert of_server[0].tolist() == pytest.approx(ours[0].tolist(), abs=1e-3)
    for cut_at in (None, 5):
        found = engine.response_logprobs(groups, cut_at), in_process.response_logprobs(groups, cut_at)
        for of_server, ours in zip(*found, strict=True):
            assert of_server[0].tolist() == pytest.approx(ours[0].tolist(), abs=1e-3)


def texts(answers):
    return [[text.text for text in each] for each in answers]


def test_a_sample_depends_on_its_key_alone(through):
    kinds = [(question, *kind) for question in QUESTIONS for kind in ((1, "So"), (0, ""))]
    requests = [asked(*kind, samples=6) for kind in kinds]
    at_once = texts(through(samples_per_request=4).sample(requests, WARM))
    assert texts(through(samples_per_request=1, concurrency=3).sample(requests[::-1], WARM))[::-1] == at_once
    assert texts(through(samples_per_request=16).sample(requests[:1], WARM)) == at_once[:1]
    # What the folder asks for, the most likely token alone, is not what was drawn.
    assert len({text for each in at_once for text in each}) == 4 * 6
    other = SamplingParameters(temperature=1.0, max_new_tokens=12, seed=6)
    others = texts(through().sample(requests, other))
    assert not {text for each in others for text in each} & {text for each in at_once for text in each}


def test_top_k_is_sent(through):
    request = asked(QUESTIONS[0], 1, samples=40)
    one = SamplingParameters(temperature=1.0, max_new_tokens=1)
    of_all = {text.text for text in through().sample([request], one)[0]}
    narrow = SamplingParameters(temperature=1.0, max_new_tokens=1, top_k=2)
    of_two = {text.text for text in through().sample([request], narrow)[0]}
    assert len(of_two) <= 2 < len(of_all)


def test_stop_strings_are_those_of_the_engine_in_process(in_process, through):
    plain = in_process.sample(ALL_KINDS[1:2], GREEDY)[0][0].text
    stopping = SamplingParameters(temperature=0, max_new_tokens=16, stop=(plain[5:7],))
    found = whole_characters(through().sample(ALL_KINDS, stopping))
    expected = whole_characters(in_process.sample(ALL_KINDS, stopping))
    assert [texts[0][:2] for texts in found] == [texts[0][:2] for texts in expected]
    assert found[1][0].text == plain[: plain.index(plain[5:7])].rstrip("\ufffd")
    assert found[1][0].finish_reason == "stop"


def test_tiles(checkpoint, in_process, through):
    """The prompt is checked by its token ids: more tiles are more image tokens."""
    if "qwen2_5_vl" in checkpoint.name:
        pytest.skip("pictures of this family are not cut into tiles")
    requests = [asked(QUESTIONS[0], 2, max_tiles=most) for most in (1, 2, 3)]
    found = whole_characters(through().sample(requests, GREEDY))
    assert found == whole_characters(in_process.sample(requests, GREEDY))
    assert len({texts[0].prompt_tokens for texts in found}) > 1


def test_tokens_are_counted(through):
    engine = through(samples_per_request=4)
    found = engine.sample([asked(QUESTIONS[0], 1, samples=8)], WARM)[0]
    assert engine.usage.requests == 2
    assert engine.usage.completion_tokens == sum(text.completion_tokens for text in found)
    assert engine.usage.prompt_tokens == 2 * found[0].prompt_tokens


def test_errors_are_in_the_servers_own_words(server, through):
    long = asked("So 3 + 4 = 7? " * 400)
    with pytest.raises(PromptRefusedError, match=r"answered 400: .*(1024|maximum)") as caught:
        through().sample([long], GREEDY)
    assert server.url in str(caught.value)
    assert str(caught.value).startswith("So 3 + 4 = 7? So")
    with pytest.raises(PromptRefusedError, match=r"answered 400: .*(image|limit)"):
        through().sample([asked(QUESTIONS[0], 5)], GREEDY)
    other = ServerEngine([server.url], "large", needs_processor=False)
    with pytest.raises(ServerError, match=r"answered 404: .*large.*it serves tiny"):
        other.sample([asked(QUESTIONS[0])], GREEDY)


@pytest.fixture
def runs(server, processor, tiny_world, tmp_path):
    """Of `visualprm predict`, with the processor alone in this process."""
    processor.save_pretrained(tmp_path / "processor")
    return ServedRuns(server.url, str(tmp_path / "processor"), tiny_world)


@pytest.mark.parametrize("module", [POLICY, ANNOTATOR], ids=["policy", "annotator"])
def test_spoilt_answers(runs, module, tmp_path):
    server_runs.check_spoilt_answers(runs, tmp_path, module)


def test_a_pause(runs, tmp_path):
    server_runs.check_a_pause(runs, tmp_path, 3.0)


def test_gone_for_good(runs, tmp_path):
    server_runs.check_gone_for_good(runs, tmp_path)


def test_kill(runs, tmp_path):
    server_runs.check_kill(runs, tmp_path, ANNOTATOR)


@pytest.mark.thorough
def test_twenty_kills(runs, tmp_path):
    server_runs.check_many_kills(runs, tmp_path, ANNOTATOR, 20)


def test_the_server_itself_is_stopped_and_started_again(server, runs, tmp_path):
    """The last test of this file: in flight requests are broken off by vLLM, and the run goes on with the new one."""
    undisturbed = runs.rows(tmp_path / "undisturbed", POLICY)

    def again():
        server.stop()
        server.start()

    with server_runs.when(lambda: len(runs.finished(tmp_path / "stopped")) >= 2, again):
        assert runs.rows(tmp_path / "stopped", POLICY) == undisturbed
