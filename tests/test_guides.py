"""What the guides name exists, and the commands that they show are understood."""

import argparse
import ast
import configparser
import importlib
import inspect
import json
import pydoc
import re
import sys

import pytest
import yaml
from guide_texts import (
    FOLDERS,
    GUIDES,
    README,
    REPOSITORY,
    anchors,
    blocks,
    commands,
    links,
    name_of,
    rows,
    spans,
    text_of,
    visualprm_arguments,
)

WHERE = REPOSITORY / "lightning_modules/WHERE_THINGS_ARE.md"
RESULTS = REPOSITORY / "experiments/RESULTS.md"
INLINE_BASE = "fit --config experiments/visualprm_8b/full.yaml --config experiments/strategies/ddp.yaml".split()

each_guide = pytest.mark.parametrize("guide", GUIDES, ids=name_of)


def test_the_guides_are_these():
    names = {name_of(guide) for guide in GUIDES}
    assert len(names) >= 10
    # The overview leads to every one of them.
    assert {README.parent.joinpath(target.split("#")[0]) for target in links(README)} >= {*GUIDES} - {README}


def test_the_overview_is_short():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide != RESULTS], ids=name_of)
def test_a_guide_is_read_at_once(guide):
    assert len(guide.read_text().splitlines()) <= 200


@each_guide
def test_links_lead_somewhere(guide):
    for target in links(guide):
        path, _, anchor = target.partition("#")
        linked = (guide.parent / path).resolve() if path else guide
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


# ------------------------------------------------------------------- names


def names_in(code):
    """Words of a piece of code that may be names of files or modules."""
    return [word.strip(",;:()'\"") for word in re.split(r"[\s=]+", code.text)]


@each_guide
def test_files_exist(guide):
    codes = [*spans(guide), *blocks(guide, "bash"), *blocks(guide, "yaml")]
    paths = [word for code in codes for word in names_in(code) if re.match(rf"({'|'.join(FOLDERS)})/", word)]
    missing = [path for path in paths if not (REPOSITORY / path.split("::")[0]).exists()]
    assert not missing
    # A table that names a folder in its head lists files of it.
    experiments = {path.name for path in (REPOSITORY / "experiments").rglob("*") if path.suffix in (".yaml", ".sbatch")}
    short = [word for code in spans(guide) for word in names_in(code) if re.fullmatch(r"\w+\.(yaml|sbatch)", word)]
    assert {*short} - {"config.yaml"} <= experiments


@each_guide
def test_modules_and_classes_exist(guide):
    for found in re.findall(r"\b(?:lightning_modules|datamodules|tools)(?:\.\w+)+", text_of(guide)):
        path = found.removesuffix(".py")
        assert pydoc.locate(path) is not None, found


def defined_in(path):
    """Functions, classes, their methods and attributes, and values of a module."""
    names = set()
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_where_things_are_says_where_they_are():
    listed = 0
    for row in rows(WHERE):
        files = re.findall(r"`([\w/]+\.py)`", row[1])
        if len(row) == 3 and files:
            names = re.findall(r"`([\w.]+)`", row[2])
            assert names, row
            assert {*names} <= set().union(*(defined_in(file) for file in files)), row
            listed += len(names)
    assert listed >= 50


# ---------------------------------------------------------------- commands


@each_guide
def test_targets_of_make_exist(guide):
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for words in commands(guide):
        if words[0] == "make":
            assert words[1] in targets, words


@each_guide
def test_tests_that_are_named_exist(guide):
    for words in commands(guide):
        if words[0] == "pytest":
            assert all((REPOSITORY / word).exists() for word in words[1:] if "/" in word), words


class ParsedError(Exception):
    """A parser has understood its arguments."""


@pytest.fixture
def only_parse(monkeypatch):
    """Gives a function that lets a program parse its arguments, and does not let it go on."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise ParsedError

    def run(program, arguments):
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(ParsedError):
            program()

    return run


def tool_of(words):
    """The program that a command runs and its arguments; None for programs that are not ours or take none."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    scripts = dict(re.findall(r"([\w-]+) = ([\w.:]+)", setup["options.entry_points"]["console_scripts"]))
    if words[0] in scripts:
        module, name = scripts[words[0]].split(":")
        return getattr(importlib.import_module(module), name), words[1:]
    if words[:2] == ["python", "-m"] and words[2].startswith("tools."):
        return importlib.import_module(words[2]).main, words[3:]
    return None


@each_guide
def test_tools_understand_their_arguments(guide, only_parse):
    for words in commands(guide):
        if visualprm_arguments(words) is None and (tool := tool_of(words)):
            only_parse(*tool)


@pytest.fixture
def parse_visualprm(monkeypatch):
    """Gives a function that parses the arguments of `visualprm`; what the parser does not know ends in SystemExit."""
    from lightning_modules import cli
    from lightning_modules.configuration.command import VisualPRMCLI

    monkeypatch.setattr(VisualPRMCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(VisualPRMCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.chdir(REPOSITORY)
    return cli.run


def visualprm_commands():
    found = {}
    for guide in GUIDES:
        for words in commands(guide):
            arguments = visualprm_arguments(words)
            if arguments and "--help" not in arguments:
                found.setdefault(tuple(arguments), name_of(guide))
    return [pytest.param(arguments, id=f"{guide}-{index}") for index, (arguments, guide) in enumerate(found.items())]


@pytest.mark.parametrize("arguments", visualprm_commands())
def test_visualprm_understands_its_arguments(arguments, parse_visualprm):
    parse_visualprm(arguments)


def test_visualprm_understands_options_within_the_text(parse_visualprm):
    """Options with a value, all in one command; those of a command for itself are tested above."""
    texts = [span.text for guide in GUIDES for span in spans(guide)]
    found = [match for text in texts if (match := re.fullmatch(r"--((?!data\.)\w+(?:\.\w+)*)[ =]('.+'|[\w.]+)", text))]
    options = {match[1]: match[2].strip("'") for match in found if not match[2].isupper()}
    assert {"monitoring", "model.backbone.lora.rank", "model.class_tokens"} <= {*options}
    parse_visualprm([*INLINE_BASE, *(f"--{name}={value}" for name, value in options.items())])


def class_of(settings):
    """The class of a ``class_path``, all arguments of it and its bases, and those that are given."""
    kind = pydoc.locate(settings["class_path"])
    arguments = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    return kind, arguments, settings.get("init_args", {})


def settings_of_classes(value):
    """Every mapping with a ``class_path`` in a YAML value."""
    if isinstance(value, list):
        return [found for each in value for found in settings_of_classes(each)]
    if not isinstance(value, dict):
        return []
    nested = [found for each in value.values() for found in settings_of_classes(each)]
    return [value, *nested] if "class_path" in value else nested


@each_guide
def test_settings_in_yaml_are_arguments_of_their_classes(guide):
    for block in blocks(guide, "yaml"):
        classes = settings_of_classes(yaml.safe_load(block.text))
        assert classes, block.text
        for settings in classes:
            kind, arguments, given = class_of(settings)
            assert {*given} <= arguments, f"{kind.__name__}: {json.dumps(given)}"


# ------------------------------------------------------------------ Python


def test_the_program_of_the_overview_scores(tiny_world, tiny_checkpoint, capsys):
    (program,) = blocks(README, "python")
    run = "runs/quickstart/seed0"
    assert program.text.count(run) == 2
    text = program.text.replace(f"{run}/process_reward_model", str(tiny_checkpoint)).replace(
        f"{run}/world", str(tiny_world)
    )
    exec(compile(text, "README.md", "exec"), {})
    steps, responses = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert [len(scores) for scores in steps] == [3, 2]
    assert all(0 <= score <= 1 for scores in steps for score in scores)
    assert responses == pytest.approx([sum(scores) / len(scores) for scores in steps])


@each_guide
def test_programs_can_be_compiled(guide):
    for block in blocks(guide, "python"):
        compile(block.text, name_of(guide), "exec")
