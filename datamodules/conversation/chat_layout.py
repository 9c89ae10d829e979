"""The layout in which a checkpoint's chat template and tokenizer write conversations with judged steps.

The layout is found by rendering and tokenising small conversations through the template itself, so no model family
needs rules of its own. It tells which token each class is in the assistant turn, and which tokens precede it. No
library does it: the assistant masks of `transformers` need `generation` tags that released templates do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jinja2 import TemplateError
from transformers import ProcessorMixin

from datamodules.conversation.messages import SOLUTION_HEADER, build_messages

T = TypeVar("T")

_MARK = "Mark7"
# Ends that a tokenizer might join with what follows, so that only tokens that follow any step remain in the pattern.
_PROBE_STEPS = ["2", "a.", "b)", "c}", "d"]
_OTHERS = ("7", "x", "?", "Q")


class ChatLayout:
    """Text of conversations, and the token positions of their assistant turns.

    Args:
        processor: Processor of the checkpoint.
        system_prompt: Empty for no system turn; a template may then write a default of its own. If a template refuses
            or drops system turns, the prompt opens the first user turn.
        class_tokens: Possible answers of an assistant turn; the first one is the placeholder in every turn.

    Attributes:
        class_token_ids: Token id of each class in the assistant turn.
        pattern: Token ids between a step and the assistant's answer, and the answer itself.
        lead: Text between an answer and the next step.

    Raises:
        ValueError: If the template or the tokenizer does not suit step-by-step judgement.
    """

    def __init__(self, processor: ProcessorMixin, system_prompt: str, class_tokens: Sequence[str]) -> None:
        self.processor = processor
        self.system_prompt = system_prompt
        self.class_tokens = tuple(class_tokens)
        if len(set(self.class_tokens)) < max(2, len(self.class_tokens)) or not all(map(str.strip, self.class_tokens)):
            raise ValueError(f"class tokens {list(self.class_tokens)} must be two or more different texts; {_ANOTHER}")
        self.folds_system_prompt = bool(system_prompt) and not self._has_system_turn()
        self.moves_images = self._moves_images()
        self._cut = self._find_cut()
        self.lead = self._find_lead()
        self.class_token_ids = [self._find_class(token) for token in self.class_tokens]
        if len(set(self.class_token_ids)) < len(self.class_tokens):
            raise ValueError(
                f"class tokens {list(self.class_tokens)} do not have different ids: {self.class_token_ids}; {_ANOTHER}"
            )
        self.pattern = self._find_pattern()

    # ----------------------------------------------------------------- text

    def render(
        self, question: str, num_images: int, steps: Sequence[str], answer: str | Sequence[str] | None = None
    ) -> str:
        """Render the conversation, image placeholders not expanded; later turns never change earlier ones.

        Args:
            question: See :func:`datamodules.conversation.messages.question_content`.
            num_images: Number of images of the question.
            steps: At least one.
            answer: Text of every assistant turn, or one text for each; the first class by default.

        Raises:
            ValueError: If there are no steps, images and placeholders do not match, or the template refuses.
        """
        messages = self._messages_of_template(question, num_images, steps, answer)
        if self._cut is None:
            return self._apply(messages)
        after, closing = self._cut
        text = self._apply([*messages, _user(_MARK)])
        if not text.endswith(after):
            raise ValueError(f"the chat template must end a conversation with {after!r}, but it wrote {text[-80:]!r}")
        return text[: -len(after)] + closing

    def messages(
        self, question: str, num_images: int, steps: Sequence[str], answer: str | Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Messages of the conversation, with images where they belong; arguments as of :meth:`render`.

        Raises:
            ValueError: If there are no steps, or images and placeholders do not match.
        """
        system_prompt = "" if self.folds_system_prompt else self.system_prompt
        messages = build_messages(question, num_images, steps, system_prompt, answer or self.class_tokens[0])
        if self.folds_system_prompt:
            messages[0]["content"].insert(0, {"type": "text", "text": f"{self.system_prompt}\n\n"})
        return messages

    def _messages_of_template(
        self, question: str, num_images: int, steps: Sequence[str], answer: str | Sequence[str] | None
    ) -> list[dict[str, Any]]:
        messages = self.messages(question, num_images, steps, answer)
        first = next(message for message in messages if message["role"] == "user")
        if self.moves_images and any(part["type"] == "text" for part in first["content"][: num_images + 1][:-1]):
            # The template would put all images first; its image token in the text keeps them where they belong.
            image = self.processor.image_token  # type: ignore[attr-defined]
            text = "".join(part["text"] if part["type"] == "text" else image for part in first["content"])
            first["content"] = [{"type": "text", "text": text}]
        return messages

    def _apply(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            return str(self.processor.apply_chat_template(list(messages), tokenize=False))
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error

    def _has_system_turn(self) -> bool:
        messages = build_messages("1", 0, ["2"], _MARK)
        try:
            return _MARK in self._apply(messages)
        except ValueError:
            # Without the system turn it must work; if not, that is the error to show.
            self._apply(messages[1:])
            return False

    def _moves_images(self) -> bool:
        """Whether the template moves an image that is between two texts."""
        if not isinstance(getattr(self.processor, "image_token", None), str):
            return False
        content = [{"type": "text", "text": f"{_MARK}a"}, {"type": "image"}, {"type": "text", "text": f"{_MARK}b"}]
        text = self._apply([{"role": "user", "content": content}])
        if f"{_MARK}a" not in text or f"{_MARK}b" not in text:
            return False
        return not text[text.index(f"{_MARK}a") + len(_MARK) + 1 : text.index(f"{_MARK}b")].strip()

    def _find_cut(self) -> tuple[str, str] | None:
        """How to make the last turn equal to the others if the template writes it differently.

        Thinking templates add an empty thought to the last answer, or drop those of earlier ones. With one more user
        turn every answer is an earlier one; the text is then cut after the last answer.

        Returns:
            What to cut off and what to put there instead; None if nothing needs to be cut.
        """
        short, long = (self._apply(self._messages_of_template("1", 0, steps, _MARK)) for steps in (["2"], ["2", "3"]))
        if long.startswith(short) and short.count(_MARK) == 1 and long.count(_MARK) == 2:
            return None
        followed = [
            self._apply([*self._messages_of_template("1", 0, steps, _MARK), _user("4")])
            for steps in (["2"], ["2", "3"])
        ]
        found = [(text.count(_MARK), text.rfind(_MARK) + len(_MARK)) for text in followed]
        after = followed[0][found[0][1] :]
        is_sound = [count for count, _ in found] == [1, 2] and followed[1].endswith(after)
        if not is_sound or not followed[1].startswith(followed[0][: found[0][1]]):
            raise ValueError(
                f"the chat template must keep every assistant turn and write it alike whatever follows; it turns one "
                f"answer {_MARK!r} into {short!r} and two of them into {long!r}"
            )
        alone = short[short.rfind(_MARK) + len(_MARK) :]
        closing = "".join(_common(list(after), list(alone), forward=True))
        return after.replace("4", _MARK), closing

    def _find_lead(self) -> str:
        text = self.render("1", 0, ["2", f"{_MARK}b"], f"{_MARK}a")
        if f"{_MARK}a" not in text or f"{_MARK}b" not in text:
            raise ValueError(f"the chat template must write steps and answers as they are, but it wrote {text!r}")
        return text[text.index(f"{_MARK}a") + len(_MARK) + 1 : text.index(f"{_MARK}b")]

    # ---------------------------------------------------------------- tokens

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens."""
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _find_class(self, token: str) -> int:
        """The token of a class: the one that differs from a conversation with another answer."""
        other = next(text for text in _OTHERS if text not in token)
        ids, others = (self.tokenize(self.render("1", 0, ["2"], answer)) for answer in (token, other))
        start = len(_common(ids, others, forward=True))
        end = len(ids) - len(_common(ids[start:], others[start:], forward=False))
        pieces = self.processor.tokenizer.convert_ids_to_tokens(ids[start:end])
        if len(pieces) != 1:
            raise ValueError(
                f"class token {token!r} is {len(pieces)} tokens in this tokenizer, {pieces}, where the chat template "
                f"puts it; a class token must be a single token; {_ANOTHER}"
            )
        if self.processor.tokenizer.decode(ids[start:end]).strip() != token.strip():
            raise ValueError(
                f"class token {token!r} is joined with what the chat template writes around it, to {pieces[0]!r}; "
                f"{_ANOTHER}"
            )
        return ids[start]

    def _find_pattern(self) -> list[int]:
        rows = [self.tokenize(self.render("1", 0, _PROBE_STEPS, token)) for token in self.class_tokens]
        length = len(rows[0])
        at = [i for i, ids in enumerate(zip(*rows, strict=False)) if list(ids) == self.class_token_ids]
        same = [i for i, ids in enumerate(zip(*rows, strict=False)) if len(set(ids)) == 1]
        if {len(row) for row in rows} != {length} or len(at) != len(_PROBE_STEPS) or len(at) + len(same) != length:
            raise ValueError(
                f"class tokens {list(self.class_tokens)}: the tokenizer joins some of them, but not all alike, with "
                f"what the chat template writes around them; {_ANOTHER}"
            )
        pattern = rows[0][: at[0] + 1]
        for index in at[1:]:
            pattern = _common(pattern, rows[0][: index + 1], forward=False)
        if len(pattern) < 2:
            raise ValueError(
                f"the assistant turn of the chat template must begin with a header, so that it can be found, but it "
                f"wrote {self.render('1', 0, _PROBE_STEPS)!r}"
            )
        return pattern

    def text_lengths(self, steps: Sequence[str], is_first: Sequence[bool]) -> list[int]:
        """Numbers of tokens of steps in the context of a conversation.

        A space before a step is often one token with its first word; it then counts as part of the step.
        """
        leads = [SOLUTION_HEADER if first else self.lead for first in is_first]
        count: Callable[[list[str]], list[int]] = lambda texts: [  # noqa: E731
            len(ids) for ids in self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        ]
        whole = count([lead + step for lead, step in zip(leads, steps, strict=True)])
        before = count([lead.rstrip(" ") for lead in leads])
        return [max(0, w - b) for w, b in zip(whole, before, strict=True)]


_ANOTHER = 'name others that are, for instance --model.class_tokens \'["Yes", "No"]\''


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def _common(left: list[T], right: list[T], *, forward: bool) -> list[T]:
    """The longest common beginning (or end) of two lists."""
    step = 1 if forward else -1
    length = 0
    for a, b in zip(left[::step], right[::step], strict=False):
        if a != b:
            break
        length += 1
    return left[:length] if forward else left[len(left) - length :]
