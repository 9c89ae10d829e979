import pytest

from datamodules.batching.collate import kinds_of_steps
from datamodules.conversation.step_kinds import PERCEPTION, REASONING, step_kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The diagram shows a circle with a chord.", PERCEPTION),
        ("In the image, there are three red cubes.", PERCEPTION),
        ("Top left: 9.", PERCEPTION),
        ("First picture: 2.", PERCEPTION),
        ("The y-axis is labelled from 0 to 50.", PERCEPTION),
        ("9 + 8 = 17 and 9 + 5 = 14.", REASONING),
        ("The figure shows AB = 3, so AC is 6.", REASONING),
        ("Therefore the red bar is the largest.", REASONING),
        ("Answer: \\boxed{17}", REASONING),
        ("Let x be the number of apples.", REASONING),
        ("By the theorem of Pythagoras, c^2 = a^2 + b^2.", REASONING),
        ("", REASONING),
    ],
)
def test_the_rule(text, kind):
    assert step_kind(text) == kind


def test_padding_has_no_kind():
    assert kinds_of_steps([["Top left: 9.", "9 + 8 = 17."], ["Top right: 8."]]).tolist() == [[1, 0], [1, -1]]
