"""The part of a response in which the answer is looked for."""

from __future__ import annotations

import re

_THOUGHT_TAG = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{[\s$]*\}")
_END_OF_TEXT = re.compile(
    r"(?:</s>|<\|(?:im_end|endoftext|eot_id|end|end_of_text|eom_id)\|>|<\|im_start\|>\s*(?:user|system)|<eos>|<end_of_turn>)"
)
_SPECIAL_TOKEN = re.compile(
    r"<s>|<bos>|<\|(?:im_start|begin_of_text|start_header_id|end_header_id)\|>(?:\s*assistant\b)?|<start_of_turn>(?:model\b)?"
)
_COURTESY = re.compile(
    r"[^\w(]*(?:i hope\b|hope (?:this|that|it)\b|(?:please\s+)?(?:let me know|feel free)\b"
    r"|is there anything\b|(?:would|do) you "
    r"(?:like|have|want|need)\b|if you (?:have|need|want|would like)\b|(?:please )?(?:ask|tell) me\b|thank you|thanks\b"
    r"|you(?:'|’)re welcome|have a (?:great|nice|good)|good luck|happy to help|希望|如果您?有|如有)[^\n]*$",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(r"(?:(?<=[.!?。！？*])\s+|\n+|(?<=[。！？])|\A)(?=\S)")

MAX_COURTESIES = 4


def counted_part(response: str) -> str:
    """What follows the thought, if anything does, up to the end-of-text token, without a closing courtesy.

    Empty boxes and the tags of thoughts become spaces. A response that is nothing but a courtesy stays.
    """
    thought_ends = [match.end() for match in _END_OF_THOUGHT.finditer(response)]
    if thought_ends and response[thought_ends[-1] :].strip():
        response = response[thought_ends[-1] :]
    ends = (match.start() for match in _END_OF_TEXT.finditer(response) if response[: match.start()].strip())
    response = _SPECIAL_TOKEN.sub(" ", response[: next(ends, len(response))])
    response = _EMPTY_BOX.sub(" ", _THOUGHT_TAG.sub(" ", _END_OF_TEXT.sub(" ", response)))
    return _without_courtesy(response)


def _without_courtesy(response: str) -> str:
    for _ in range(MAX_COURTESIES):
        stripped = response.rstrip()
        tail_begin = max(0, len(stripped) - 400)
        starts = [match.end() for match in _SENTENCE_START.finditer(stripped, tail_begin)]
        if not starts or not _COURTESY.fullmatch(stripped, starts[-1]) or not stripped[: starts[-1]].strip():
            return response
        response = stripped[: starts[-1]]
    return response
