"""Instructions that policies are asked to answer with, and questions without them.

In the released data a row's ``question`` is what the policy was asked, the instruction included. The texts below are
those of the released pipeline (``reasoning_data_pipeline/utils/constants.py`` of InternVL) and our own; they must be
equal to the letter, so that a question can be read without them.
"""

from __future__ import annotations

import re

from datamodules.conversation.messages import IMAGE_PLACEHOLDER

POLICY_INSTRUCTION = (
    "Reason step by step, one thought a paragraph, with blank lines between paragraphs. "
    "End with your final answer inside \\boxed{}; for a multiple-choice question, put only the option letter there."
)
"""What we ask a policy for, on a line after the question."""

QUESTION = "{question}"
"""Stands in a template where the question goes."""

_THINKING = (
    "You are an AI assistant that rigorously follows this response protocol:\n\n"
    "1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason "
    "through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.\n\n"
    "2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the "
    "answer from the think section with a newline.\n\n"
    "Ensure that the thinking process is thorough but remains focused on the query. The final answer should be "
    "standalone and not reference the thinking section.\n"
)

POLICY_INSTRUCTION_ZH = (
    "请逐步推理，每段只写一个想法，段落之间空一行。最后把答案写在 \\boxed{} 里；如果是选择题，只写选项字母。"
)
"""The same in Chinese."""

INSTRUCTIONS = {
    "ours": f"{QUESTION}\n{POLICY_INSTRUCTION}",
    "ours_zh": f"{QUESTION}\n{POLICY_INSTRUCTION_ZH}",
    "final_answer": (
        "Your task is to answer the question below. Give step by step reasoning before you answer, and when you're "
        f'ready to answer, please use the format "Final answer: .."\n\nQuestion:\n\n{QUESTION}'
    ),
    "boxed": (
        f"{QUESTION}\nAnswer the preceding question. The last line of your response should follow this format: "
        "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on the "
        "reasoning provided. If you are uncertain or the problem is too complex, make a reasoned guess based on the "
        "information provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step "
        "by step logically, considering all relevant information before answering."
    ),
    "boxed_letter": (
        f"{QUESTION}\nAnswer the preceding multiple choice question. The last line of your response should follow this "
        "format: 'Answer: \\boxed{$LETTER}' (without quotes), where LETTER is one of the options. If you are uncertain "
        "or the problem is too complex, make a reasoned guess based on the information provided. Avoid repeating steps "
        "indefinitely—provide your best guess even if unsure. Think step by step logically, considering all relevant "
        "information before answering."
    ),
    "thinking": (f"{_THINKING}{QUESTION}\nPlease answer the question and put the final answer within \\boxed{{}}."),
    "final_answer_zh": (
        "你的任务是回答以下问题。在回答之前，请逐步推理说明您的思路。当你准备好给出答案时，请使用以下格式："
        f'"答案: ..."\n\n问题:\n\n{QUESTION}'
    ),
    "boxed_zh": (
        f"{QUESTION}\n请回答上述问题。你的回答最后一行应遵循以下格式："
        "“答案：\\boxed{$FINAL_ANSWER}”（不包含引号），其中“FINAL_ANSWER”是你根据推理得出的最终结论。"
        "如果你不确定答案或问题过于复杂，请基于已有信息做出有理有据的猜测。"
        "避免无限重复推理步骤——即使不完全确定，也请给出你认为最合理的答案。"
        "请一步一步进行逻辑思考，充分考虑所有相关信息后再作答。"
    ),
    "thinking_zh": f"{_THINKING}{QUESTION}\n请详细回答这个问题并将最终答案用\\boxed{{}}包住。",
}
"""By name, with ``{question}`` where the question goes. "boxed_letter" is VLMEvalKit's; "ours" and "ours_zh" are our
own, all others those of the released pipeline."""

SHORT_ANSWER_INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
    "Please answer Yes or No.",
)
"""How questions of MMPR end that ask for a short answer. A policy that is to reason is asked without them, and a reward
model reads ``bare`` questions without them, so that a text more would change what trained models read."""

SHORT_ANSWER_REQUESTS = (
    *SHORT_ANSWER_INSTRUCTIONS,
    "Answer the question with a single word or phrase.",
    "Please answer yes or no.",
    "Answer yes or no.",
    "请用单个词或短语回答问题。",
    "请直接回答选项字母。",
    "请回答是或否。",
)
"""These, and how questions of similar data end: policies are asked without them. A text more may be added here."""

_IMAGES_IN_FRONT = re.compile(rf"(?:{re.escape(IMAGE_PLACEHOLDER)}\n?)*")
_AROUND = [tuple(part.strip() for part in template.split(QUESTION)) for template in INSTRUCTIONS.values()]


def with_template(question: str, template: str) -> str:
    r"""The question in a template; images that stand in front of the question stand in front of the whole text.

    >>> with_template("<image>\nHow many?", "Think first.\n\nQuestion:\n\n{question}")
    '<image>\nThink first.\n\nQuestion:\n\nHow many?'

    Raises:
        ValueError: If ``{question}`` does not stand in the template once.
    """
    if template.count(QUESTION) != 1:
        raise ValueError(f"an instruction must hold {QUESTION} once, at the place of the question, got {template!r}")
    images, rest = _images_and_text(question)
    return images + template.replace(QUESTION, rest)


def without_instruction(question: str) -> str:
    r"""The question without a known instruction around it, and without a request for a short answer at its end.

    >>> without_instruction("<image>\nHow many? Please answer Yes or No.")
    '<image>\nHow many?'

    Args:
        question: With any number of image placeholders.

    Returns:
        The question itself where there is no known instruction, or nothing else.
    """
    images, text = _images_and_text(question)
    inner = text.strip()
    for before, after in _AROUND:
        if inner.startswith(before) and inner.endswith(after) and len(inner) > len(before) + len(after):
            inner = inner[len(before) : len(inner) - len(after)].strip()
    for ending in SHORT_ANSWER_INSTRUCTIONS:
        inner = inner.removesuffix(ending).strip() or inner
    return images + inner if inner != text.strip() else question


def without_requests(question: str) -> str:
    r"""The question without a known instruction around it, and without any of :data:`SHORT_ANSWER_REQUESTS` at its end.

    >>> without_requests("<image>\nHow many? Answer yes or no.")
    '<image>\nHow many?'
    """
    question = without_instruction(question)
    images, text = _images_and_text(question)
    inner = text.strip()
    for ending in SHORT_ANSWER_REQUESTS:
        inner = inner.removesuffix(ending).strip() or inner
    return images + inner if inner != text.strip() else question


def _images_and_text(question: str) -> tuple[str, str]:
    """The image placeholders in front of a question, and the rest."""
    found = _IMAGES_IN_FRONT.match(question)
    end = found.end() if found else 0
    return question[:end], question[end:]
