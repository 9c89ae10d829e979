import stat
import zipfile

import pytest
from released_data import PICTURES, split_file, write_zip

from datamodules.storage import archive_extraction
from datamodules.storage.archive_extraction import extract_archive, unpacked_bytes
from datamodules.storage.archive_parts import ArchiveError

FILES = {f"images/{name}": content for name, content in PICTURES.items()}


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("parts", [0, 3])
def test_all_of_it_is_unpacked(tmp_path, parts):
    archive = write_zip(tmp_path / "images.zip", FILES)
    if parts:
        split_file(archive, parts)
    written = []
    assert extract_archive(archive, tmp_path / "out", progress=written.append) == len(FILES)
    assert files_in(tmp_path / "out") == FILES
    assert sum(written) == unpacked_bytes(archive) == sum(map(len, FILES.values()))
    with pytest.raises(FileExistsError, match="out exists already"):
        extract_archive(archive, tmp_path / "out")


def refused(tmp_path, archive, message, **options):
    """Nothing is written, neither the folder nor a part of it, nor anything beside it."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError, match=message):
        extract_archive(archive, tmp_path / "out", **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_bounds(tmp_path):
    archive = write_zip(tmp_path / "images.zip", FILES)
    size = unpacked_bytes(archive)
    refused(tmp_path, archive, rf"5 files of {size} bytes .* of {size - 1} bytes are allowed", max_bytes=size - 1)
    refused(tmp_path, archive, "at most 4 files", max_files=4)
    assert extract_archive(archive, tmp_path / "out", max_bytes=size, max_files=5) == 5


def test_a_full_disk(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "images.zip", FILES)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(archive_extraction.shutil, "disk_usage", lambda path: usage)
    refused(tmp_path, archive, "free on the disk: 10 bytes")


@pytest.mark.parametrize(
    ("name", "content", "mode", "message"),
    [
        ("../evil.png", b"x", 0o100644, "lies outside"),
        ("/tmp/evil.png", b"x", 0o100644, "lies outside"),
        ("images/link", b"/etc", stat.S_IFLNK | 0o777, "is a link or a device"),
        ("images/pipe", b"", stat.S_IFIFO | 0o600, "is a link or a device"),
        ("bomb.bin", bytes(20 * 2**20), 0o100644, "more than 200 times"),
        ("images/ai2d/images/1.png", b"again", 0o100644, "two members have the name"),
        ("images", b"a file where a folder is", 0o100644, "has the name of another one"),
        ("images/ai2d/images/1.png/x", b"a folder where a file is", 0o100644, "has the name of another one"),
    ],
)
def test_what_is_refused(tmp_path, name, content, mode, message):
    archive = write_zip(tmp_path / "images.zip", FILES)
    with zipfile.ZipFile(archive, "a") as more:
        info = zipfile.ZipInfo("x")
        info.filename = name
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        with pytest.warns(UserWarning, match="Duplicate") if "1.png" in name and "/x" not in name else _nothing():
            more.writestr(info, content)
    refused(tmp_path, archive, message)


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_damaged_member_leaves_nothing_behind(tmp_path):
    archive = write_zip(tmp_path / "images.zip", FILES, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"IDAT") + 8] ^= 0xFF
    archive.write_bytes(content)
    refused(tmp_path, archive, "cannot be unpacked: Bad CRC-32")
