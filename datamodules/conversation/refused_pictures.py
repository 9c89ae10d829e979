"""Errors of a processor that say which picture of which conversation it refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image
from transformers import ProcessorMixin


class PictureRefusedError(ValueError):
    """A processor cannot take a picture, for instance because it is far too wide.

    Args:
        place: Where the picture comes from; begins the message.
        reason: The size of the picture and what the processor said.
        conversation: The index of the conversation in the batch.
        picture: The index of the picture in the conversation.
    """

    def __init__(self, place: str, reason: str = "", conversation: int = 0, picture: int = 0) -> None:
        super().__init__(f"{place}{reason}")
        self.place, self.reason = place, reason
        self.conversation, self.picture = conversation, picture

    def at(self, place: str, conversation: int = 0) -> PictureRefusedError:
        """The same about a picture that is known better: by another place, or in another batch."""
        return PictureRefusedError(place, self.reason, conversation, self.picture)


@contextmanager
def naming_pictures(
    processor: ProcessorMixin, conversations: Sequence[tuple[str, Sequence[Image.Image]]], options: Mapping[str, Any]
) -> Iterator[None]:
    """Let an error of a call of the processor name the picture that it is about.

    Args:
        processor: That is called in the block.
        conversations: Name and pictures of each conversation of the call.
        options: Of the call.

    Raises:
        PictureRefusedError: If the processor refuses one of the pictures also when it is alone; else the error itself.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # processors raise all kinds
        for index, (name, images) in enumerate(conversations):
            for number, image in enumerate(images):
                try:
                    processor.image_processor(images=[image], return_tensors="pt", **options)
                except Exception as said:  # noqa: BLE001 (becomes the reason of the error below)
                    reason = (
                        f" ({image.width} x {image.height} pixels) cannot be used with this model: "
                        f"{type(processor.image_processor).__name__} says: {said or type(said).__name__}"
                    )
                    raise PictureRefusedError(f"{name}: picture {number}", reason, index, number) from error
        raise
