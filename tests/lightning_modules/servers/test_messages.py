import base64
import gc
import io

import numpy as np
import pytest
from PIL import Image

from lightning_modules.servers.messages import PictureEncoder


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def opened(url):
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_stand_in_their_places_and_lose_nothing():
    first, second = picture(0), picture(1)
    content = [{"type": "text", "text": "Of "}, {"type": "image"}, {"type": "text", "text": " and "}, {"type": "image"}]
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    sent = PictureEncoder().chat([system, {"role": "user", "content": content}], [first, second], "So:\n\n")
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in sent[1]["content"]] == ["text", "image_url", "text", "image_url"]
    urls = [part["image_url"]["url"] for part in sent[1]["content"] if part["type"] == "image_url"]
    for url, image in zip(urls, [first, second], strict=True):
        assert np.array_equal(opened(url), np.asarray(image))
    assert sent[2] == {"role": "assistant", "content": "So:\n\n"}
    assert content[1] == {"type": "image"}  # what came in stays as it was


def test_each_picture_is_encoded_once_and_forgotten_with_it(monkeypatch):
    saved = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, *a, **k: (saved.append(1), save(self, *a, **k))[1])
    encoder, image = PictureEncoder(), picture(2)
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    assert encoder.chat(messages, [image]) == encoder.chat(messages, [image], "")
    assert encoder.url(image.copy()) == encoder.url(image)
    assert len(saved) == 2  # the copy is another picture
    del image
    gc.collect()
    assert not encoder._urls


@pytest.mark.parametrize(("parts", "count", "words"), [(1, 2, "fewer image parts"), (2, 1, "more image parts")])
def test_parts_and_pictures_must_match(parts, count, words):
    with pytest.raises(ValueError, match=words):
        PictureEncoder().chat([{"role": "user", "content": [{"type": "image"}] * parts}], [picture(3)] * count)
