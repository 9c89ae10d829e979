import math

import pytest
from literal_server import literal_server
from tiny_families import FAMILIES

from lightning_modules.process_reward import ProcessRewardModel, QuestionWithResponses, RewardModelServer
from lightning_modules.scoring.class_logprobs import MissingClassError
from lightning_modules.servers.errors import RequestRefusedError, ServersGoneError

FIVE = "The digits are 3 , 7\n\nSo 9\n\nSo the answer is \\boxed{2} .\n\n7\n\nSo 3"
RESPONSES = [FIVE, "The digits are 3 , 7\n\nSo 9\n\nSo 3", "The digits are 3 , 7\n\nSo 9", "", FIVE]
SETTINGS = {
    "value": {},
    "max_steps": {"max_steps": 2},
    "no system prompt": {"system_prompt": ""},
    "advantage": {"objective": "advantage", "aggregation": "min"},
    "outcome": {"objective": "outcome"},
    "as released": {"preset": "visualprm_400k", "system_prompt": "Check ."},
}


@pytest.fixture(scope="module")
def server(sharp_checkpoint):
    with literal_server(sharp_checkpoint) as server:
        yield server


@pytest.fixture
def questions(picture):
    text = "How many digits are larger than 4 ?"
    return [
        QuestionWithResponses(picture(1), text, RESPONSES, "one picture"),
        QuestionWithResponses(picture(2), text, RESPONSES, "another picture"),
        QuestionWithResponses([picture(3), picture(1)], "Is <image> larger than <image> ?", RESPONSES, "two"),
        QuestionWithResponses([picture(3), picture(1)], "Which is larger ?", RESPONSES, "two in front"),
        QuestionWithResponses(None, text, RESPONSES, "text"),
    ]


def served(checkpoint, server, **options):
    settings = {"patience": 0.3, "max_attempts": 2}
    return ProcessRewardModel.from_pretrained(checkpoint, server=RewardModelServer([server.url], **settings), **options)


def steps_of(scored):
    return [score for response in scored.step_scores for score in response]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_scores_are_those_of_this_process(sharp_checkpoint, server, questions, settings):
    here = ProcessRewardModel.from_pretrained(sharp_checkpoint, **settings).score_questions(questions)
    there = served(sharp_checkpoint, server, **settings).score_questions(questions)
    for one, other in zip(here, there, strict=True):
        assert other.steps == one.steps
        assert steps_of(other) == pytest.approx(steps_of(one), abs=1e-5)
        assert other.response_scores == pytest.approx(one.response_scores, abs=1e-5)
    # The comparison is of scores that depend on the picture and the steps.
    assert max(map(abs, map(float.__sub__, steps_of(there[0]), steps_of(there[1])))) > 1e-2
    assert len({round(score, 3) for score in steps_of(there[0])}) > 1


def test_nothing_is_asked_twice(sharp_checkpoint, server, questions):
    model = served(sharp_checkpoint, server)
    model.score_questions(questions[:1])
    before = len(server.bodies)
    model.score_questions(questions[:1])
    # Steps of the first response: five; of the second, its third; the third has none of its own; the empty step.
    assert len(server.bodies) - before == 5 + 1 + 0 + 1


def test_many_are_in_flight(sharp_checkpoint, server, questions):
    server.most_at_once = 0
    served(sharp_checkpoint, server).score_questions(questions)
    assert server.most_at_once > 4


def test_all_about_a_question_goes_to_one_server(sharp_checkpoint, questions):
    with literal_server(sharp_checkpoint) as first, literal_server(sharp_checkpoint) as second:
        addresses = f"{first.url}, {second.url}"
        model = ProcessRewardModel.from_pretrained(sharp_checkpoint, server=RewardModelServer(addresses))
        model.score_questions(questions)
        before = [len(server.bodies) for server in (first, second)]
        model.score_questions(questions)
        asked = [server.bodies[start:] for server, start in zip((first, second), before, strict=True)]
    pictures = [
        {
            str([part["image_url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"])
            for body in b
        }
        for b in [[body for body in bodies if isinstance(body["messages"][1]["content"], list)] for bodies in asked]
    ]
    # Questions 0, 2 and 4 are the first one's, 1 and 3 the second one's; 2 and 3 have the same pictures.
    assert len(pictures[0]) == len(pictures[1]) == 2
    assert len(pictures[0] & pictures[1]) == 1


def test_this_process_holds_no_weights(sharp_checkpoint, server, tmp_path):
    model = served(sharp_checkpoint, server)
    assert not list(model.parameters())
    with pytest.raises(ValueError, match=r"save_pretrained needs the weights.*model\.server"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a checkpoint needs the weights"):
        model.on_load_checkpoint({"state_dict": {}})
    with pytest.raises(ValueError, match=r"fit needs the weights"):
        model.setup("fit")


# -------------------------------------------------------- what a server lacks


def test_the_next_best_way(sharp_checkpoint, questions):
    here = ProcessRewardModel.from_pretrained(sharp_checkpoint, objective="advantage").score_questions(questions)
    with literal_server(sharp_checkpoint, knows_ids=False, is_processed=True) as server:
        there = served(sharp_checkpoint, server, objective="advantage").score_questions(questions)
        assert all("allowed_token_ids" in body for body in server.bodies[-5:])
    for one, other in zip(here, there, strict=True):
        assert steps_of(other) == pytest.approx(steps_of(one), abs=1e-5)


def test_no_exact_way(sharp_checkpoint, questions):
    with literal_server(sharp_checkpoint, knows_ids=False) as server:
        with pytest.raises(ValueError, match=r"no exact way to ask.*--logprobs-mode processed_logprobs") as caught:
            served(sharp_checkpoint, server).score_questions(questions)
    assert server.url in str(caught.value)
    assert "logprob_token_ids: the answer lacks" in str(caught.value)


def test_a_missing_class_is_no_zero(sharp_checkpoint, questions):
    plus = ProcessRewardModel.from_pretrained(sharp_checkpoint).encoder.class_token_ids[0]
    with literal_server(sharp_checkpoint, forgets=lambda number: plus if number > 9 else None) as server:
        model = served(sharp_checkpoint, server)
        with pytest.raises(MissingClassError, match=rf"(one picture|text), candidate \d: step \d: .*\[{plus}\]"):
            model.score_questions([questions[0], questions[4]])


def test_a_class_that_vllm_has_no_value_for_is_missing(sharp_checkpoint):
    from lightning_modules.scoring.class_logprobs import ClassLogprobs

    token = {"token": "token_id:5", "logprob": -0.5, "top_logprobs": [{"token": "token_id:6", "logprob": -9999.0}]}
    with pytest.raises(MissingClassError, match=r"\[6\]"):
        ClassLogprobs((5, 6)).read({"choices": [{"logprobs": {"content": [token]}}]})
    token["top_logprobs"][0]["logprob"] = -200.0
    assert ClassLogprobs((5, 6)).read({"choices": [{"logprobs": {"content": [token]}}]}).tolist() == [-0.5, -200.0]


# --------------------------------------------------- servers that read otherwise


def test_another_chat_template(sharp_checkpoint, questions):
    template = ProcessRewardModel.from_pretrained(sharp_checkpoint).processor.chat_template
    with literal_server(sharp_checkpoint, template=template.replace("<|end|>", "<|end|>7")) as server:
        with pytest.raises(
            ValueError, match=r"reads other tokens than the model: \d+ tokens, and \d+ were expected; .* is '7<"
        ):
            served(sharp_checkpoint, server).score_questions(questions)


def test_a_template_that_reads_other_orders_of_pictures_otherwise(sharp_checkpoint, questions):
    """It moves pictures to the front, as some do; questions with pictures in their text must not be scored so."""
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% for p in m['content'] %}{% if p['type'] == 'image' %}"
        "<IMG_CONTEXT>{% endif %}{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
        "{% endif %}{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with literal_server(sharp_checkpoint, template=template) as server:
        model = served(sharp_checkpoint, server)
        model.score_questions([questions[0], questions[3]])
        with pytest.raises(ValueError, match=r"two, candidate 0: the server reads other tokens"):
            model.score_questions([questions[2]])


def test_only_the_number_of_tokens_is_known(sharp_checkpoint, questions, caplog):
    here = ProcessRewardModel.from_pretrained(sharp_checkpoint).score_questions(questions[:1])
    with literal_server(sharp_checkpoint, tells_ids=False) as server:
        there = served(sharp_checkpoint, server).score_questions(questions[:1])
    assert steps_of(there[0]) == pytest.approx(steps_of(here[0]), abs=1e-5)
    template = ProcessRewardModel.from_pretrained(sharp_checkpoint).processor.chat_template
    with literal_server(sharp_checkpoint, tells_ids=False, template=template.replace("<|end|>", "<|end|>7")) as server:
        with pytest.raises(ValueError, match=r"reads other tokens than the model: \d+ tokens, and \d+"):
            served(sharp_checkpoint, server).score_questions(questions)
    with literal_server(sharp_checkpoint, tells_ids=False, tells_usage=False) as server:
        with pytest.raises(ValueError, match=r"tells neither which tokens.*nor how many"):
            served(sharp_checkpoint, server).score_questions(questions)


def test_every_server_is_checked(sharp_checkpoint, questions):
    template = ProcessRewardModel.from_pretrained(sharp_checkpoint).processor.chat_template
    with (
        literal_server(sharp_checkpoint) as sound,
        literal_server(sharp_checkpoint, template=template.replace("<|end|>", "<|end|>7")) as other,
    ):
        model = ProcessRewardModel.from_pretrained(sharp_checkpoint, server=RewardModelServer([sound.url, other.url]))
        with pytest.raises(ValueError, match=other.url):
            model.score_questions(questions)


# ------------------------------------------------------------------- mistakes


def test_models_of_a_server(sharp_checkpoint, server, questions):
    wrong = RewardModelServer([server.url], model="other", patience=0.3)
    with pytest.raises(RuntimeError, match=r"check of the server: .*404.*`other` does not exist"):
        ProcessRewardModel.from_pretrained(sharp_checkpoint, server=wrong).score_questions(questions)
    with literal_server(sharp_checkpoint) as several:
        several.models = (200, {"data": [{"id": "tiny"}, {"id": "large"}]})
        with pytest.raises(ValueError, match=r"holds 2 models, tiny, large; name one: server\.model"):
            served(sharp_checkpoint, several).score_questions(questions)


def test_a_server_that_is_gone_or_refuses(sharp_checkpoint, questions):
    with literal_server(sharp_checkpoint) as server:
        model = served(sharp_checkpoint, server)
        model.score_questions(questions[:1])
        answer = server.answer
        server.answer = lambda number, body: (400, {"error": {"message": "maximum context length is 64 tokens"}})
        with pytest.raises(RequestRefusedError, match=r"one picture, candidate \d: step \d: .*64 tokens"):
            model.score_questions(questions[:1])
        server.answer = answer
        model.score_questions(questions[:1])
    with pytest.raises(ServersGoneError, match="one picture, candidate"):
        model.score_questions(questions[:1])


def test_settings_out_of_range(sharp_checkpoint):
    for options, message in (({"concurrency": 0}, "concurrency"), ({"base_urls": []}, "base_urls")):
        settings = {"base_urls": ["http://localhost:1/v1"], **options}
        with pytest.raises(ValueError, match=message):
            ProcessRewardModel.from_pretrained(sharp_checkpoint, server=RewardModelServer(**settings))


def test_special_tokens_are_refused_before_they_are_sent(sharp_checkpoint, server, picture):
    model = served(sharp_checkpoint, server)
    with pytest.raises(ValueError, match=r"special token '<IMG_CONTEXT>'"):
        model.score(picture(1), "How many ?", ["So <IMG_CONTEXT>"])
    assert math.isfinite(model.score(picture(1), "How many ?", ["So 3"]).response_scores[0])


# ------------------------------------------------------------------- families


@pytest.mark.parametrize("name", FAMILIES)
def test_families(family_checkpoint, picture, name):
    """Chat templates of many kinds: a server renders what this process reads, or scoring through it is refused."""
    checkpoint = family_checkpoint(name)
    local = ProcessRewardModel.from_pretrained(checkpoint, system_prompt="Check every step.")
    responses = ["The digits are 3, 7 and 9.\n\nSo 3 + 4 = 7.\n\nSo 2", "So 7"]
    asked = [QuestionWithResponses(None, "How many digits are larger than 4?", responses, "text")]
    if FAMILIES[name].is_multimodal:
        asked.append(QuestionWithResponses(picture(1), "How many?", responses, "picture"))
        asked.append(QuestionWithResponses([picture(2), picture(3)], "Is <image> or <image>?", responses, "two"))
    with literal_server(checkpoint) as server:
        model = served(checkpoint, server, system_prompt="Check every step.")
        if name == "llava_onevision":
            # Its template writes a space behind the header of an answer that is there, but none before one to come.
            with pytest.raises(ValueError, match="the server reads other tokens than the model"):
                model.score_questions(asked)
            return
        for question in asked:
            (here,) = local.score_questions([question])
            (there,) = model.score_questions([question])
            assert steps_of(there) == pytest.approx(steps_of(here), abs=1e-4)
