"""Files of settings that are wrong in themselves."""

import pytest

from lightning_modules.configuration.yaml_files import problem_of_file

SOUND = "model:\n  class_path: Policy\n  init_args: {a: 1}\ntrainer:\n  max_steps: 2\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SOUND + "trainer:\n  max_epochs: 1\n", "{file}:6: trainer: is there already, in line 4; remove one of both"),
        ("trainer:\n  a: 1\n  a: 2\n", "{file}:3: trainer.a: is there already, in line 2; remove one of both"),
        (
            "model:\n  init_args: {a: 1, a: 2}\n",
            "{file}:2: model.init_args.a: is there already, in line 2; remove one of both",
        ),
        ("- a\n", "{file}: must hold keys (model: ..., data: ..., trainer: ...), but holds a list"),
        ("text", "{file}: must hold keys (model: ..., data: ..., trainer: ...), but holds a single value"),
        ("", "{file}: is empty; give a YAML file of settings (model: ..., data: ..., trainer: ...)"),
        ("# nothing\n", "{file}: is empty; give a YAML file of settings (model: ..., data: ..., trainer: ...)"),
        ("trainer: 3\n", "{file}:1: trainer: must hold keys with values, but holds a single value"),
        ("model:\n- a\n", "{file}:2: model: must hold keys with values, but holds a list"),
        ("trainer:\n", "{file}:1: trainer: is empty; give its settings, or leave it out"),
        ("model:\n  class_path: 3\n", "{file}:2: model.class_path: must be the name of a class"),
        (
            "model:\n  class_path: A\n  init_args:\n",
            "{file}:3: model.init_args: must hold keys with values, or be left out",
        ),
        ("a: 1\nb: \0\n", "{file}:2: holds a character that YAML does not allow (U+0000)"),
        (  # ten to the ninth
            "a0: &a0 1\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
            "{file}: its aliases come to 1e+09 values, more than the 100,000 of a file of settings",
        ),
        ("a: &a\n  b: *a\n", "{file}: holds an alias of itself, so that it never ends"),
        ("a: " + "[" * 3000, "{file}: is nested too deeply for a file of settings"),
    ],
)
def test_what_is_wrong(text, says, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert problem_of_file(file) == says.replace("{file}", str(file))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings(encoding, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(f"# \u00e9\n{SOUND}".encode(encoding))
    assert problem_of_file(file).startswith(f"{file}: is not UTF-8 text (byte ")


@pytest.mark.parametrize(
    "text",
    [
        SOUND,
        "\ufeff" + SOUND,
        SOUND.replace("\n", "\r\n"),
        "trainer:\n  <<: &a {max_steps: 1}\n  max_steps: 2\nother: *a\n",
        "model: Policy\ndata: null\n",
        "a: [1\n",  # said by the parser, with the line
    ],
)
def test_what_the_parser_takes(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert problem_of_file(file) is None


def test_what_is_no_file(tmp_path):
    assert problem_of_file(tmp_path) is None
    assert problem_of_file(tmp_path / "none.yaml") is None
