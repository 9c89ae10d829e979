r"""Read the conversation template from a source folder's ``conversation.py`` without running it.

The released code (``InternVLChatModel.chat``, and ``InternVLRewardModel`` in the same ``modeling_internvl_chat.py`` of
VisualPRM-8B's folder) writes a conversation with the template that ``config.json`` names, in the separator style MPT:
``system_template`` with the system message filled in, then each turn's role and text, ``sep`` after each. For
``internvl2_5`` that is ``<|im_start|>system\n{system message}<|im_end|>\n<|im_start|>user\n...<|im_end|>\n``.
``<image>`` is replaced in place by ``<img>``, the context tokens of all tiles and ``</img>``. The tokenizer puts its
beginning-of-sequence token in front (InternLM2 has one, Qwen2 none).

How VisualPRM-8B scores (``generate_steps_with_soft_score`` and ``_v2``): a question without ``<image>`` gets
``<image>\n`` in front *inside* of the layout, so that the first user turn begins with ``### Question:\n<image>\n``;
several images must be named by the question itself, and InternVL's evaluation of several images writes ``Image-1:
<image>\nImage-2: <image>\n`` in front. Earlier verdicts read ``+``; a step's score is the probability of ``+`` between
the tokens ``+`` and ``-`` after ``<|im_start|>assistant\n``; the response's is their mean.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.storage import fields

CONVERSATION_FILE = "conversation.py"


@dataclass(frozen=True)
class ConversationTemplate:
    """The parts of a conversation template of the style MPT.

    Attributes:
        system_template: Text with ``{system_message}`` in it once.
        system_message: The system prompt.
        user: Beginning of a user turn.
        assistant: Beginning of an assistant turn.
        separator: End of every turn.
    """

    system_template: str
    system_message: str
    user: str
    assistant: str
    separator: str

    @property
    def end_of_turn(self) -> str:
        """The token that ends an answer."""
        return self.separator.strip()


def _chat_markup(separator: str) -> ConversationTemplate:
    return ConversationTemplate(
        "<|im_start|>system\n{system_message}", "", "<|im_start|>user\n", "<|im_start|>assistant\n", separator
    )


KNOWN_LAYOUTS = {
    "internvl2_5": _chat_markup("<|im_end|>\n"),
    "Hermes-2": _chat_markup("<|im_end|>"),
    "internlm2-chat": _chat_markup("<|im_end|>"),
}
"""Layouts by template name, for folders that have no ``conversation.py``; the system message must be given there."""


def read_template(folder: Path, name: str, system_prompt: str | None) -> ConversationTemplate:
    """The template ``name``.

    Args:
        folder: Source folder.
        name: ``template`` of ``config.json``.
        system_prompt: System prompt instead of the one in ``conversation.py``; needed if that file is missing.

    Raises:
        ValueError: If there is no such template, it is not written as literals, or its style is not supported.
    """
    path = folder / CONVERSATION_FILE
    if path.is_file():
        template = _parse(path, name)
    elif system_prompt is None:
        raise ValueError(
            f"{folder}: no {CONVERSATION_FILE} to read the system prompt of template {name!r} from; "
            f"copy that file of the release here, or give the prompt with --system-prompt"
        )
    elif name not in KNOWN_LAYOUTS:
        raise ValueError(
            f"{folder}: no {CONVERSATION_FILE}, and the layout of template {name!r} is not known without it "
            f"(known: {', '.join(KNOWN_LAYOUTS)})"
        )
    else:
        template = KNOWN_LAYOUTS[name]
    return template if system_prompt is None else replace(template, system_message=system_prompt)


def _parse(path: Path, name: str) -> ConversationTemplate:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not readable as Python: {error}") from error
    found = []
    names = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and _called(node) == "register_conv_template" and node.args):
            continue
        template = node.args[0]
        if isinstance(template, ast.Call) and _called(template) == "Conversation":
            keywords = {keyword.arg: keyword.value for keyword in template.keywords if keyword.arg}
            registered = _literal(keywords.get("name"))
            names.append(str(registered))
            if registered == name:
                found.append((template.lineno, keywords))
    if len(found) != 1:
        raise ValueError(f"{path}: template {name!r} is registered {len(found)} times; it has {fields.first_of(names)}")
    line, keywords = found[0]
    where = f"{path}:{line}"
    style = keywords.get("sep_style")
    if not (isinstance(style, ast.Attribute) and style.attr == "MPT"):
        raise ValueError(f"{where}: template {name!r} must have sep_style SeparatorStyle.MPT, the only style known")
    texts = {key: _literal(keywords.get(key)) for key in ("system_template", "system_message", "sep")}
    roles = keywords.get("roles")
    sides = [_literal(node) for node in roles.elts] if isinstance(roles, ast.Tuple | ast.List) else []
    wrong = [key for key, value in texts.items() if value is None]
    if wrong or len(sides) != 2 or None in sides:
        raise ValueError(f"{where}: template {name!r} must give {', '.join([*wrong, 'roles'][:3])} as string literals")
    if str(texts["system_template"]).count("{system_message}") != 1:
        raise ValueError(f"{where}: system_template of {name!r} must hold {{system_message}} once")
    return ConversationTemplate(
        str(texts["system_template"]), str(texts["system_message"]), str(sides[0]), str(sides[1]), str(texts["sep"])
    )


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _literal(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _literal(node.left), _literal(node.right)
        return None if left is None or right is None else left + right
    return None


def chat_template(template: ConversationTemplate, begin: str, image_token: str) -> str:
    """The template for ``apply_chat_template``.

    A conversation without a system turn gets the template's own system message, as in the released code. Images keep
    their places in the content. Each image that opens a turn is followed by a line break, unless the text after it
    begins with white space; the released chat code writes ``<image>`` and a line break before a question.

    Args:
        template: Template of the source.
        begin: Text of the beginning-of-sequence token; empty for none.
        image_token: Stands for an image until the processor expands it.
    """
    head, tail = template.system_template.split("{system_message}")
    line_break, lead = _quoted("\n"), _quoted(" \n\t")
    return "".join(
        [
            "{%- macro content(message) -%}",
            "{%- if message['content'] is string -%}{{- message['content'] -}}",
            "{%- else -%}{%- set turn = namespace(opens=true) -%}{%- for part in message['content'] -%}",
            "{%- if part['type'] == 'image' -%}",
            "{{- " + _quoted(image_token) + " -}}",
            "{%- if turn.opens and not (not loop.last and loop.nextitem['type'] == 'text' and loop.nextitem['text']"
            f" and loop.nextitem['text'][0] in {lead}) -%}}{{{{- {line_break} -}}}}{{%- endif -%}}",
            "{%- elif part['type'] == 'text' -%}{%- set turn.opens = false -%}{{- part['text'] -}}",
            "{%- else -%}{{- raise_exception('content of type ' ~ part['type'] ~ ' is not known') -}}{%- endif -%}",
            "{%- endfor -%}{%- endif -%}",
            "{%- endmacro -%}",
            "{{- " + _quoted(begin) + " -}}",
            "{%- if not messages or messages[0]['role'] != 'system' -%}",
            "{{- " + _quoted(head + template.system_message + tail + template.separator) + " -}}",
            "{%- endif -%}",
            "{%- for message in messages -%}",
            "{%- if message['role'] == 'system' -%}",
            "{{- " + f"{_quoted(head)} ~ content(message) ~ {_quoted(tail + template.separator)}" + " -}}",
            "{%- elif message['role'] == 'user' -%}",
            "{{- " + f"{_quoted(template.user)} ~ content(message) ~ {_quoted(template.separator)}" + " -}}",
            "{%- elif message['role'] == 'assistant' -%}",
            "{{- " + f"{_quoted(template.assistant)} ~ content(message) ~ {_quoted(template.separator)}" + " -}}",
            "{%- else -%}{{- raise_exception('role ' ~ message['role'] ~ ' is not known') -}}{%- endif -%}",
            "{%- endfor -%}",
            "{%- if add_generation_prompt -%}{{- " + _quoted(template.assistant) + " -}}{%- endif -%}",
        ]
    )


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)
