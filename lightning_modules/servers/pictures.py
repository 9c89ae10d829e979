"""Pictures as data URLs."""

from __future__ import annotations

import base64
import io

from PIL import Image


def picture_url(image: Image.Image) -> str:
    """A picture as a data URL of a PNG, which changes no pixel."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
