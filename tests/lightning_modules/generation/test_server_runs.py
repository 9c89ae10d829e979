"""`visualprm predict` through a server that fails, which answers as a test says; with nothing of the policy here."""

import pytest
import server_runs
import yaml
from cli_runs import visualprm
from local_servers import counting, serving
from server_runs import ANNOTATOR, POLICY, ServedRuns

from lightning_modules.annotation import MonteCarloAnnotator
from lightning_modules.generation.server_engine import ServerEngine
from lightning_modules.policy import Policy


@pytest.fixture
def runs(tiny_world):
    with serving(counting) as (server,):
        yield ServedRuns(server.url, "some-policy", tiny_world, needs_processor=False)


# Both write rows by the same engine and journal; the annotator asks in several rounds.
EACH = [pytest.param(POLICY, marks=pytest.mark.thorough, id="policy"), pytest.param(ANNOTATOR, id="annotator")]


@pytest.mark.parametrize("module", EACH)
def test_spoilt_answers(runs, module, tmp_path):
    server_runs.check_spoilt_answers(runs, tmp_path, module)


def test_a_pause(runs, tmp_path):
    server_runs.check_a_pause(runs, tmp_path, 2.0)


def test_gone_for_good(runs, tmp_path):
    server_runs.check_gone_for_good(runs, tmp_path)


@pytest.mark.parametrize("module", EACH)
def test_kill(runs, module, tmp_path):
    server_runs.check_kill(runs, tmp_path, module)


@pytest.mark.thorough
def test_twenty_kills(runs, tmp_path):
    server_runs.check_many_kills(runs, tmp_path, ANNOTATOR, 20)


@pytest.mark.parametrize("module", EACH)
def test_a_refused_prompt_is_left_out_and_named(tiny_world, tmp_path, module):
    """The other prompts have their rows; with on_bad_row: error it is an error."""
    seen = []

    def refusing(number, body):
        question = str(body["messages"][0]["content"])
        seen.append(question)
        if question == seen[0]:
            return 400, {"error": {"message": "The decoder prompt is longer than the maximum model length of 64."}}
        return counting(number, body)

    with serving(refusing) as (server,):
        runs = ServedRuns(server.url, "some-policy", tiny_world, needs_processor=False)
        rows = runs.rows(tmp_path / "skip", module)
        names = {row["question_id"] if module is POLICY else row["id"].rpartition("/")[0] for row in rows}
        assert len(names) == server_runs.PROMPTS - 1
        assert "longer than the maximum model length" in (tmp_path / "skip" / "rows.jsonl.settings").read_text()
        seen.clear()
        arguments = runs.config(tmp_path / "error", module, server.url)
        with pytest.raises(ValueError, match=r"answered 400: The decoder prompt is longer"):
            visualprm(tmp_path / "error", *arguments, "--data.on_bad_row=error")


def test_no_key_is_saved(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_SERVER_KEY", "sk-secret-9876")
    visualprm(tmp_path, *runs.config(tmp_path / "run", POLICY, runs.url, api_key_variable="MY_SERVER_KEY"))
    visualprm(tmp_path, *runs.config(tmp_path / "run", POLICY, runs.url, api_key_variable="MY_SERVER_KEY"))
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"MY_SERVER_KEY" in written
    assert b"sk-secret" not in written
    captured = capsys.readouterr()
    assert "sk-secret" not in captured.out + captured.err


@pytest.mark.parametrize("module", [Policy, MonteCarloAnnotator])
def test_only_the_processor_is_loaded(module, tiny_checkpoint, tiny_processor, tmp_path):
    """From a folder with its files alone; and nothing at all if the engine says so."""
    tiny_processor.save_pretrained(tmp_path / "processor")
    assert not list((tmp_path / "processor").glob("*.safetensors"))
    made = module(str(tmp_path / "processor"), engine=ServerEngine(["http://127.0.0.1:9/v1"], "tiny"))
    assert made.processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()
    assert not made.has_weights
    assert not list(made.parameters())
    bare = module("a-name", engine=ServerEngine(["http://127.0.0.1:9/v1"], "tiny", needs_processor=False))
    assert bare.processor is None
    with pytest.raises(FileNotFoundError, match="holds none of"):
        module(str(tmp_path), engine=ServerEngine(["http://127.0.0.1:9/v1"], "tiny"))
    assert module(str(tiny_checkpoint)).has_weights


def test_there_is_nothing_to_train(tiny_world, tiny_checkpoint, tmp_path):
    engine = {
        "class_path": "lightning_modules.generation.server_engine.ServerEngine",
        "init_args": {"base_urls": ["http://127.0.0.1:9/v1"], "model": "tiny"},
    }
    config = {
        "model": {
            "class_path": "lightning_modules.policy.Policy",
            "init_args": {"model_name_or_path": str(tiny_checkpoint), "engine": engine},
        },
        "data": {
            "class_path": "datamodules.prompts_datamodule.PromptDataModule",
            "init_args": {"demonstrations": str(tiny_world / "demonstrations" / "annotations.jsonl")},
        },
        "trainer": {"accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path), "max_steps": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="no weights here to fit; leave the engine out"):
        visualprm(tmp_path, "fit", f"--config={tmp_path / 'config.yaml'}")
