import pytest

from lightning_modules.generation.engine import GeneratedText, GenerationRequest
from lightning_modules.generation.sampling import SamplingParameters, sampling_settings
from lightning_modules.generation.stop_strings import cut_at_stop
from lightning_modules.generation.transformers_engine import TransformersEngine
from lightning_modules.model.backbone import load_processor


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("So 3.\n\nQuestion: 4", ("Question:", "END"), ("So 3.\n\n", "stop")),
        ("one END two Question: three", ("Question:", "END"), ("one ", "stop")),
        ("END", ("END",), ("", "stop")),
        ("So 3.", ("Question:",), ("So 3.", "length")),
        ("So 3.", (), ("So 3.", "length")),
    ],
)
def test_the_stop_string_that_begins_first_counts(text, stop, expected):
    found = cut_at_stop(GeneratedText(text, "length", 7, 5), stop)
    assert (found.text, found.finish_reason) == expected
    assert (found.prompt_tokens, found.completion_tokens) == (7, 5)
    # Whether a text was cut, and where, or has ended by itself.
    assert found.stopped_at == (None if expected[1] == "length" else text[len(expected[0]) :].split()[0])


def test_in_process(sharp_model, sharp_checkpoint):
    engine = TransformersEngine.of(sharp_model, load_processor(sharp_checkpoint))
    asked = GenerationRequest([{"role": "user", "content": [{"type": "text", "text": "How many?"}]}], [], ["a/0"])
    plain = engine.sample([asked], SamplingParameters(temperature=0, max_new_tokens=12))[0][0]
    assert len(plain.text) > 6
    stop = plain.text[3:5]
    expected = plain.text[: plain.text.index(stop)]
    found = engine.sample([asked], SamplingParameters(temperature=0, max_new_tokens=12, stop=(stop,)))[0][0]
    assert (found.text, found.finish_reason) == (expected, "stop")


def test_journals_from_before_there_were_stop_strings_go_on():
    assert "stop" not in sampling_settings(SamplingParameters())
    assert sampling_settings(SamplingParameters(stop=("END",)))["stop"] == ["END"]


@pytest.mark.parametrize("stop", ["END", ("",)])
def test_what_is_no_list_of_stop_strings(stop):
    with pytest.raises(ValueError, match="stop must be a list of strings"):
        SamplingParameters(stop=stop)
