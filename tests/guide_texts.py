"""The guides as tests read them: their links, code and commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("lightning_modules", "datamodules", "experiments", "tools", "tests")
README = REPOSITORY / "README.md"
GUIDES = [README, *sorted(path for name in FOLDERS for path in (REPOSITORY / name).rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LAUNCHER = "lightning_modules.cli"


class Code(NamedTuple):
    """A piece of code of a guide: a fenced block with its language, or a span within a line."""

    guide: Path
    language: str
    text: str


def name_of(path: Path) -> str:
    """Path below the repository, for ids of tests."""
    return str(path.relative_to(REPOSITORY))


def text_of(guide: Path) -> str:
    """The text without comments, which readers do not see."""
    return re.sub(r"<!--.*?-->", "", guide.read_text(), flags=re.DOTALL)


def blocks(guide: Path, language: str) -> list[Code]:
    """The fenced blocks in a language."""
    return [Code(guide, found, text) for found, text in _BLOCK.findall(text_of(guide)) if found == language]


def spans(guide: Path) -> list[Code]:
    """Code within lines; a span that is wrapped is joined."""
    prose = _BLOCK.sub("", text_of(guide))
    return [Code(guide, "", " ".join(text.split())) for text in re.findall(r"`([^`]+)`", prose)]


def links(guide: Path) -> list[str]:
    """Targets of links to files of this repository, with their anchors."""
    found = re.findall(r"\]\(([^)]+)\)", _BLOCK.sub("", text_of(guide)))
    return [target for target in found if "://" not in target]


def anchors(guide: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text_of(guide)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(guide: Path) -> list[list[str]]:
    """The cells of all tables, row by row."""
    lines = [line for line in text_of(guide).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def commands(guide: Path) -> list[list[str]]:
    """The words of every command in shell blocks, and of every span that runs one of ours with arguments."""
    shell = "\n".join(block.text for block in blocks(guide, "bash")).replace("\\\n", " ").splitlines()
    ours = r"([A-Z_]+=\S+ )?(visualprm\S* .*--|visualprm-\S+ \S|make \S|pytest \S|python -m tools)"
    inline = [span.text for span in spans(guide) if re.match(ours, span.text)]
    found = [shlex.split(line, comments=True) for line in [*shell, *inline]]
    return [_without_environment(words) for words in found if words]


def _without_environment(words: list[str]) -> list[str]:
    return words[next((index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0) :]


def visualprm_arguments(words: list[str]) -> list[str] | None:
    """What `visualprm` gets from a command that runs it, under torchrun and sbatch too; None if it does not."""
    if words[0] == "visualprm":
        return words[1:]
    if words[0] == "torchrun" and _LAUNCHER in words:
        return words[words.index(_LAUNCHER) + 1 :]
    if words[:3] == ["python", "-m", "tools.two_nodes"]:
        return words[3:]
    for index, word in enumerate(words):
        if words[0] == "sbatch" and word.endswith(".sbatch"):
            return [Path(word).stem, *words[index + 1 :]]
    return None
