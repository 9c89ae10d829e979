"""A server of a checkpoint that answers about the next token by one plain forward of `transformers` a request.

It has the parts of the OpenAI-compatible interface of vLLM that scoring needs. What it may lack is said when it is
made. No code of this project takes part in its answers but the loading of the processor.
"""

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from local_servers import Answer, LocalServer, serving
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lightning_modules.model.backbone import load_processor
from lightning_modules.model.text_processor import TextProcessor


@dataclass
class Abilities:
    """What the server can do.

    Attributes:
        knows_ids: It heeds `logprob_token_ids`; otherwise it overlooks it, as older versions of vLLM do.
        is_processed: Its log-probabilities are those after `allowed_token_ids`.
        tells_ids: It heeds `return_token_ids`.
        tells_usage: It counts tokens.
        tells_prompts: It heeds `prompt_logprobs`.
        template: Its chat template; that of the folder by default.
        forgets: From the number of a request to a token that its answer lacks.
    """

    knows_ids: bool = True
    is_processed: bool = False
    tells_ids: bool = True
    tells_usage: bool = True
    tells_prompts: bool = True
    template: str | None = None
    forgets: Any = None


class LiteralModel:
    """Answers requests about one checkpoint."""

    def __init__(self, folder: Path, abilities: Abilities) -> None:
        self.abilities = abilities
        self.processor = load_processor(folder)
        kind = AutoModelForCausalLM if isinstance(self.processor, TextProcessor) else AutoModelForImageTextToText
        self.model = kind.from_pretrained(folder).eval()
        self._lock = threading.Lock()

    def __call__(self, number: int, body: dict[str, Any]) -> Answer:
        if body["model"] != "tiny":
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        images: list[Image.Image] = []
        messages = [{**message, "content": self._content(message["content"], images)} for message in body["messages"]]
        template = {"chat_template": self.abilities.template} if self.abilities.template else {}
        continues = body.get("continue_final_message", False)
        partial = messages.pop()["content"][0]["text"] if continues else ""
        begins = continues or body["add_generation_prompt"]
        chat = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins, **template)
        text = chat + partial
        inputs = self.processor(
            text=[text],
            images=[images] if images else None,
            add_special_tokens=False,
            return_tensors="pt",
            **body.get("mm_processor_kwargs", {}),
        )
        with self._lock, torch.no_grad():
            everywhere = self.model(**inputs).logits[0].double()
        ids = inputs["input_ids"][0].tolist()
        answer: dict[str, Any] = {"choices": [{"logprobs": {"content": [self._token(number, body, everywhere[-1])]}}]}
        if "prompt_logprobs" in body and self.abilities.tells_prompts:
            before = zip(everywhere.log_softmax(-1), ids[1:], strict=False)
            answer["prompt_logprobs"] = [None, *({str(each): {"logprob": float(row[each])}} for row, each in before)]
        if self.abilities.tells_usage:
            answer["usage"] = {"prompt_tokens": len(ids), "completion_tokens": 1}
        if self.abilities.tells_ids and body.get("return_token_ids"):
            answer["prompt_token_ids"] = ids
        return 200, answer

    def _token(self, number: int, body: dict[str, Any], logits: torch.Tensor) -> dict[str, Any]:
        allowed = torch.full_like(logits, -torch.inf)
        allowed[body.get("allowed_token_ids", slice(None))] = 0
        after = (logits + allowed).log_softmax(-1)
        logprobs = after if self.abilities.is_processed else logits.log_softmax(-1)
        if self.abilities.knows_ids and body.get("logprob_token_ids"):
            shown = body["logprob_token_ids"]
        else:
            shown = logprobs.topk(body.get("top_logprobs", 0)).indices.tolist()
        if self.abilities.forgets is not None:
            shown = [each for each in shown if each != self.abilities.forgets(number)]
        entry = lambda token: {"token": f"token_id:{token}", "logprob": max(-9999.0, float(logprobs[token]))}  # noqa: E731
        sampled = int(after.argmax())
        return {**entry(sampled), "top_logprobs": [entry(token) for token in shown]}

    @staticmethod
    def _content(content: Any, images: list[Image.Image]) -> Any:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts = []
        for part in content:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
                images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                parts.append({"type": "image"})
            else:
                parts.append(part)
        return parts


@contextmanager
def literal_server(folder: Path, **abilities: Any) -> Iterator[LocalServer]:
    """A server of the checkpoint in ``folder``, until the block ends."""
    with serving(LiteralModel(folder, Abilities(**abilities))) as (server,):
        yield server
