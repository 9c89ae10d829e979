import pytest
from released_data import PICTURES, split_file, write_raw_release, write_zip

from datamodules.storage.archives import parse_reference, read_member
from datamodules.supervision.image_roots import ImageFinder, ImageRoot, OpenedRoots, default_roots, spellings

RED = "ai2d/images/1.png"
LEFT = "nlvr2/images/train-1002-2-img0.png"


def content(found):
    member = parse_reference(found)
    if member is not None:
        return read_member(member)
    with open(found, "rb") as file:
        return file.read()


def write_files(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def finder(path, **options):
    return ImageFinder(OpenedRoots().with_archives([path]), **options)


LAYOUTS = {
    "archive": lambda folder: write_raw_release(folder) / "images.zip",
    "folder with an archive": write_raw_release,
    "folder with parts": lambda folder: split_file(write_raw_release(folder) / "images.zip", 3)[0].parent,
    "unpacked": lambda folder: write_files(folder, {f"images/{name}": data for name, data in PICTURES.items()}),
    "unpacked images": lambda folder: write_files(folder / "images", PICTURES),
    "moved to where rows say": lambda folder: write_files(
        folder, {f"VisualPRM400K-v1.1-Raw/{name}": data for name, data in PICTURES.items()}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_released_names_are_found_in_every_layout(tmp_path, layout):
    find = finder(LAYOUTS[layout](tmp_path))
    for name, data in PICTURES.items():
        assert content(find(f"VisualPRM400K-v1.1-Raw/{name}")) == data


@pytest.mark.parametrize("layout", ["archive", "folder with an archive", "unpacked"])
def test_the_short_names_of_nlvr2(tmp_path, layout):
    assert content(finder(LAYOUTS[layout](tmp_path))("images/train-1002-2-img0.png")) == PICTURES[LEFT]


def test_other_pictures_of_the_same_name_are_not_taken():
    """A folder of an unknown name is no spelling of the release: the picture is missing, not another one."""
    assert spellings("geo/1.png") == ["geo/1.png", "images/geo/1.png"]
    assert spellings("VisualPRM400K-v1.1-Raw/ai2d/1.png") == [
        "VisualPRM400K-v1.1-Raw/ai2d/1.png",
        "ai2d/1.png",
        "images/ai2d/1.png",
    ]


def test_a_missing_picture_is_a_path_in_the_first_root(tmp_path):
    find = finder(write_raw_release(tmp_path))
    assert find("ai2d/none.png") == f"{tmp_path}/VisualPRM400K-v1.1-Raw/ai2d/none.png"


def test_the_exact_name_comes_first(tmp_path):
    write_files(tmp_path, {"a.png": b"exact", "images/a.png": b"below images", "images/b.png": b"only there"})
    find = finder(tmp_path)
    assert [content(find(name)) for name in ("b.png", "a.png", "b.png")] == [b"only there", b"exact", b"only there"]


def test_without_looking(tmp_path):
    """Once one is found, the others are taken to be beside it."""
    write_files(tmp_path / "images", {"ai2d/1.png": b"1"})
    find = finder(tmp_path, look=False)
    assert find("VisualPRM400K-v1.1-Raw/ai2d/1.png") == f"{tmp_path}/images/ai2d/1.png"
    assert find("VisualPRM400K-v1.1-Raw/ai2d/2.png") == f"{tmp_path}/images/ai2d/2.png"


def test_a_folder_inside_of_an_archive(tmp_path):
    archive = write_zip(tmp_path / "images.zip", {f"images/{name}": data for name, data in PICTURES.items()})
    root = ImageRoot(f"zip://images/ai2d::{archive}")
    assert content(root.find("images/1.png")) == PICTURES[RED]
    assert content(root.find("./images/1.png")) == PICTURES[RED]
    assert root.find("Geometry3K/train/1471/img_diagram.png") is None
    assert root.folder == tmp_path / "images" / "ai2d"


def test_roots_that_are_not_there(tmp_path):
    (tmp_path / "file.txt").write_text("")
    for missing in ("none", "none.zip"):
        with pytest.raises(FileNotFoundError, match="neither a folder nor a zip archive"):
            ImageRoot(tmp_path / missing)
    assert default_roots(tmp_path / "annotations") == [tmp_path / "annotations", tmp_path]
    assert default_roots(tmp_path / "geometry") == [tmp_path / "geometry"]


def test_the_signature_follows_the_archive(tmp_path):
    archive = write_zip(tmp_path / "images.zip", {"a.png": b"1"})
    first = ImageRoot(archive).signature()
    assert ImageRoot(archive).signature() == first
    write_zip(archive, {"a.png": b"1", "b.png": b"2"})
    assert ImageRoot(archive).signature() != first
