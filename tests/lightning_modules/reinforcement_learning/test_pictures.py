import io

import numpy as np
import pytest
from PIL import Image

from lightning_modules.reinforcement_learning.pictures import pictures_of


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((9, 7), 50).convert("RGB").save(path)
    return path


def test_all_the_ways_in_which_rows_hold_a_picture(file):
    picture = Image.open(file)
    content = io.BytesIO()
    picture.save(content, "PNG")
    ways = [
        picture,
        file,
        str(file),
        f"file://{file}",
        content.getvalue(),
        {"bytes": content.getvalue(), "path": None},
        {"bytes": None, "path": str(file)},
        {"image": f"file://{file}"},
        [picture],
        (picture,),
        np.array([{"bytes": content.getvalue(), "path": None}], dtype=object),
    ]
    for way in ways:
        (found,) = pictures_of(way, "row 0")
        assert np.array_equal(np.asarray(found), np.asarray(picture.convert("RGB")))
    assert len(pictures_of([picture, str(file)], "row 0")) == 2
    assert pictures_of(None, "row 0") == pictures_of([], "row 0") == []


def test_mistakes_name_row_and_picture(file, tmp_path):
    with pytest.raises(TypeError, match=r"row 3, column 'images', picture 1: must be a PIL image.*got int"):
        pictures_of([str(file), 7], "row 3, column 'images'")
    with pytest.raises(ValueError, match=r"row 3.*missing\.png"):
        pictures_of(str(tmp_path / "missing.png"), "row 3")
