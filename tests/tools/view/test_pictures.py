import base64
import io

import pytest
from PIL import Image

from tools.view.pictures import PictureStore


def picture(colour, kind="PNG", size=(40, 20)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def test_each_picture_is_written_once(tmp_path):
    (tmp_path / "red.png").write_bytes(picture("red"))
    store = PictureStore(tmp_path / "page.html")
    assert store.add([tmp_path / "red.png", picture("blue")], "one") == [0, 1]
    assert store.add([picture("red"), tmp_path / "red.png"], "another") == [0, 0]
    assert len(store.places) == len(list((tmp_path / "page_pictures").iterdir())) == 2
    assert (tmp_path / store.places[0]).read_bytes() == picture("red")
    again = PictureStore(tmp_path / "page.html")
    assert again.add([picture("red")], "one") == [0]
    assert again.places == store.places[:1]


@pytest.mark.parametrize(("kind", "shown"), [("TIFF", "PNG"), ("JPEG2000", "PNG"), ("WEBP", "WEBP"), ("GIF", "GIF")])
def test_kinds_that_browsers_do_not_show(kind, shown, tmp_path):
    store = PictureStore(tmp_path / "page.html")
    store.add([picture("red", kind)], "q")
    with Image.open(tmp_path / store.places[0]) as image:
        assert (image.format, image.size) == (shown, (40, 20))


def test_embedded_and_scaled_down(tmp_path):
    store = PictureStore(tmp_path / "page.html", embed=True, max_side=10)
    store.add([picture("red"), picture("red", size=(8, 4))], "q")
    sizes = []
    for place in store.places:
        kind, data = place.split(" ")
        assert kind == "png"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(10, 5), (8, 4)]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_picture(tmp_path):
    store = PictureStore(tmp_path / "page.html")
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    assert store.add([script, tmp_path / "gone.png", picture("red")], "MMMU 3") == [-1, -1, 0]
    assert [problem.startswith("MMMU 3: picture") for problem in store.problems] == [True, True]
