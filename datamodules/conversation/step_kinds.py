"""Whether a step reads the picture or reasons, by a rule on its words.

VL-PRMs (arXiv 2509.23250) part solutions into what is seen and what follows from it. Where no one has marked the steps,
this rule does. It knows English words alone.
"""

from __future__ import annotations

import re

REASONING, PERCEPTION = 0, 1
NO_KIND = -1
"""Of what is no step."""
KIND_NAMES = {PERCEPTION: "perception", REASONING: "reasoning"}

_CALCULATES = re.compile(
    r"\d\s*[-+*/×÷·^<>≤≥=]\s*-?\d|[A-Za-z0-9)\]}]\s*=\s*[A-Za-z0-9(\\-]|\\frac|\\times|\\cdot|\\sqrt"
)
_INFERS = re.compile(
    r"\b(therefore|thus|hence|so|because|since|implies?|means? that|it follows|using|substitut\w*|solv\w+|calculat\w+"
    r"|comput\w+|add(ing)?|subtract\w*|multipl\w+|divid\w+|theorem|formula|equation|answer|option)\b|\\boxed",
    re.IGNORECASE,
)
_LOOKS = re.compile(
    r"\b(images?|pictures?|photos?|figures?|diagrams?|graphs?|charts?|plots?|tables?|maps?|drawings?|shown|shows"
    r"|depict\w*|display\w*|see|seen|look\w*|observ\w+|visible|labell?ed|marked|top|bottom|left|right|upper|lower"
    r"|red|blue|green|yellow|black|white|axis|legend|column|row)\b",
    re.IGNORECASE,
)


def step_kind(text: str) -> int:
    """The kind of a step: perception if it speaks of what is to be seen and neither calculates nor infers.

    All else is reasoning.

    >>> KIND_NAMES[step_kind("The figure shows a triangle with the angle B marked.")]
    'perception'
    >>> KIND_NAMES[step_kind("The figure shows two sides of 3, so the perimeter is 3 + 3 + 4.")]
    'reasoning'
    """
    is_seen = _LOOKS.search(text) and not _CALCULATES.search(text) and not _INFERS.search(text)
    return PERCEPTION if is_seen else REASONING
