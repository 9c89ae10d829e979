"""Chats with pictures as OpenAI-compatible servers take them."""

from __future__ import annotations

import base64
import io
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image


class PictureEncoder:
    """Pictures as data URLs; each is encoded once, and forgotten with the picture."""

    def __init__(self) -> None:
        self._urls: dict[int, tuple[weakref.ref[Image.Image], str]] = {}

    def url(self, image: Image.Image) -> str:
        """The picture as a PNG, which loses nothing, in a ``data:`` address."""
        key = id(image)
        known = self._urls.get(key)
        if known is not None and known[0]() is image:
            return known[1]
        file = io.BytesIO()
        # PNG compresses without loss at any level; the lowest is several times faster than the default.
        image.save(file, format="PNG", compress_level=1)
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
        self._urls[key] = (weakref.ref(image, lambda _: self._urls.pop(key, None)), url)
        return url

    def chat(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image], partial_response: str = ""
    ) -> list[dict[str, Any]]:
        """Messages of a request.

        Args:
            messages: In the format of chat templates, with typed content parts; an image stands where a part
                ``{"type": "image"}`` is.
            images: The images of these parts, in order.
            partial_response: Beginning of the answer, as a last message of the assistant.

        Raises:
            ValueError: If there are more or fewer images than parts for them.
        """
        left = iter(images)
        sent = [{**message, "content": self._content(message["content"], left)} for message in messages]
        if next(left, None) is not None:
            raise ValueError(f"the chat has fewer image parts than images ({len(images)})")
        if partial_response:
            sent.append({"role": "assistant", "content": partial_response})
        return sent

    def _content(self, content: str | Sequence[Mapping[str, Any]], images: Any) -> Any:
        if isinstance(content, str):
            return content
        # Servers hand a content of parts or a plain text to the chat template, and text-only ones take the text alone.
        if all(part["type"] == "text" for part in content):
            return "".join(part["text"] for part in content)
        return [self._part(part, images) for part in content]

    def _part(self, part: Mapping[str, Any], images: Any) -> dict[str, Any]:
        if part["type"] != "image":
            return dict(part)
        image = next(images, None)
        if image is None:
            raise ValueError("the chat has more image parts than images")
        return {"type": "image_url", "image_url": {"url": self.url(image)}}
