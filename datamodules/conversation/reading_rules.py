"""What of a question, its pictures and a solution reaches a reward model.

Each rule has our value, the default, and that of the released VisualPRM. A model must be asked in the way that it was
trained, so the rules are part of the protocol that is kept beside its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from datamodules.conversation.instructions import without_instruction

QuestionText = Literal["bare", "as_asked"]
PictureRules = Literal["ours", "released"]
WhiteSpace = Literal["ours", "released"]
PastVerdicts = Literal["placeholder", "labels"]


@dataclass(frozen=True)
class ReadingRules:
    """How a reward model reads.

    Attributes:
        question_text: ``bare``: the question alone. ``as_asked``: with the instruction that the policy was given, as in
            the released rows and in VLMEvalKit's Best-of-N.
        pictures: ``ours``: upright by their EXIF data, transparency on white, 16 bits scaled to 8. ``released``: as
            Pillow converts to RGB, with the hidden colours of transparent pixels, and 16 bits clipped to white.
        white_space: ``ours``: steps without white space around them, blank ones left out. ``released``: every piece
            between two blank lines is a step as it is, a blank one too.
        past_verdicts: What stands in the assistant turns of a training conversation. ``placeholder``: the first class
            token everywhere, as in scoring. ``labels``: the label of each step, as in the released training; scoring
            has placeholders all the same.

    Raises:
        ValueError: If a rule has no such value.
    """

    question_text: QuestionText = "bare"
    pictures: PictureRules = "ours"
    white_space: WhiteSpace = "ours"
    past_verdicts: PastVerdicts = "placeholder"

    def __post_init__(self) -> None:
        values = {
            "question_text": QuestionText,
            "pictures": PictureRules,
            "white_space": WhiteSpace,
            "past_verdicts": PastVerdicts,
        }
        for field in fields(self):
            known = get_args(values[field.name])
            if getattr(self, field.name) not in known:
                raise ValueError(f"{field.name} must be one of {', '.join(known)}, got {getattr(self, field.name)!r}")

    def question(self, asked: str, bare: str | None = None) -> str:
        """The text of a question that the model reads.

        Args:
            asked: What the policy was asked, or all that is known of the question.
            bare: The question alone, where it is known apart; it is taken as it is.
        """
        if self.question_text == "as_asked":
            return asked
        return without_instruction(asked) if bare is None else bare
