"""The help of subcommands is made once, and anew when what it depends on has changed."""

import sys
from contextlib import nullcontext

import pytest

from lightning_modules import cli
from lightning_modules.configuration import kept_help
from lightning_modules.configuration.kept_help import asks_for_help


@pytest.fixture
def helped(monkeypatch, tmp_path, capsys):
    """Runs `visualprm fit --help` with a stand-in for what makes the text; gives what is printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["visualprm", "fit", "--help"])

    def run(text, status=0):
        def make():
            if text is None:
                raise AssertionError("it is made again")
            sys.stdout.write(f"{text}\n")
            raise SystemExit(status)

        monkeypatch.setattr(cli, "run", make)
        with pytest.raises(SystemExit) if status else nullcontext():
            cli.main()
        return capsys.readouterr().out

    return run


def test_the_second_call_makes_nothing(helped):
    assert helped("options: é") == "options: é\n"
    assert helped(None) == "options: é\n"


@pytest.mark.parametrize("change", ["libraries", "width", "sources"])
def test_it_is_made_again(helped, monkeypatch, tmp_path, change):
    helped("old")
    if change == "libraries":
        monkeypatch.setattr(kept_help, "version", lambda library: "99")
    elif change == "width":
        monkeypatch.setenv("COLUMNS", "133")
    else:
        (tmp_path / "datamodules").mkdir()
        (tmp_path / "datamodules" / "new.py").touch()
        monkeypatch.setattr(kept_help, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert helped("new") == "new\n"
    assert helped(None) == "new\n"


def test_errors_are_not_kept(helped):
    assert helped("half a text", status=2) == "half a text\n"
    assert helped("a text") == "a text\n"


@pytest.mark.parametrize("content", [b"", b"\xff", b"something else\ntext"])
def test_a_damaged_copy(helped, tmp_path, content):
    helped("a text")
    (kept,) = (tmp_path / "cache" / "visualprm").iterdir()
    kept.write_bytes(content)
    assert helped("a text") == "a text\n"


def test_without_a_place_to_keep_it(helped, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert helped("a text") == helped("a text") == "a text\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fit --help", True),
        ("fit -h", True),
        ("fit --model.help Policy", True),
        ("fit --model.help=Policy", True),
        ("fit --trainer.callbacks.help", True),
        ("fit --model.help users.Model", False),
        ("fit --model.help=users.Model", False),
        ("fit --config a.yaml", False),
        ("fit --config a.yaml --help", False),
        ("fit", False),
        ("--help", False),
    ],
)
def test_what_asks_for_help(words, expected):
    assert asks_for_help(words.split()) is expected
