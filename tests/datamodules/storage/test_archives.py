import multiprocessing
import stat
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_examples import examples
from released_data import PICTURES, split_file, write_zip

from datamodules.storage import archives
from datamodules.storage.archive_parts import ArchiveError, archive_parts
from datamodules.storage.archives import parse_reference, read_contents, read_member

FILES = {"images/a.png": PICTURES["ai2d/images/1.png"], "images/ü b.bin": bytes(range(256)) * 40, "empty": b""}


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def archive(request, tmp_path):
    return write_zip(tmp_path / "images.zip", FILES, request.param)


def test_members_are_read_in_place(archive):
    contents = read_contents(archive)
    assert set(contents) == set(FILES)
    for name, member in contents.items():
        assert read_member(member) == FILES[name]
        beginning = read_member(member, 20)
        assert FILES[name].startswith(beginning)
        assert len(beginning) <= 20
        assert parse_reference(member.reference()) == member
    assert parse_reference("pictures/a.png") is None
    assert contents["images/a.png"].reference().startswith(f"zip://images/a.png::{archive}#")


@pytest.mark.parametrize("parts", [1, 2, 7, 26])
def test_parts_are_read_as_one_archive(archive, parts):
    split_file(archive, parts)
    assert len(archive_parts(archive)) == parts
    contents = read_contents(archive)
    assert {name: read_member(member) for name, member in contents.items()} == FILES


def test_a_missing_part_is_named(archive):
    parts = split_file(archive, 4)
    parts[1].unlink()
    with pytest.raises(ArchiveError, match=r"the part images.zip_ab is missing; there are \['aa', 'ac', 'ad'\]"):
        read_contents(archive)
    for part in parts[2:]:
        part.unlink()
    with pytest.raises(ArchiveError, match=r"images.zip: not a zip archive .*\(is its last part missing\?\)"):
        read_contents(archive)


def _read(reference):
    return len(read_member(parse_reference(reference)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_an_archive(archive, method):
    """A handle that processes share would have one position for all of them."""
    contents = read_contents(archive)
    references = [member.reference() for member in contents.values()] * 200
    if method == "fork":
        read_member(next(iter(contents.values())))
    with multiprocessing.get_context(method).Pool(4) as pool:
        sizes = pool.map(_read, references, chunksize=1)
    assert sizes == [len(FILES[name]) for name in contents] * 200


def test_an_archive_that_changed(archive, tmp_path):
    member = read_contents(archive)["images/ü b.bin"]
    write_zip(archive, {"other": b"x" * 50, **FILES})
    archives._parts.cache_clear()
    with pytest.raises(ArchiveError, match="has changed since it was indexed"):
        read_member(member)
    archive.write_bytes(b"")
    archives._parts.cache_clear()
    with pytest.raises(ArchiveError, match="has changed since it was indexed"):
        read_member(member)


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_a_damaged_member(archive, position):
    content = bytearray(archive.read_bytes())
    member = read_contents(archive)["images/ü b.bin"]
    content[member.offset + 60 + int(position * (member.packed - 70))] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"images/ü b.bin' is damaged"):
        read_member(member)


def add(archive, name, content=b"x", mode=0o100644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/etc/passwd", "C:\\a.png", "a\\..\\..\\b", "..", "a\0.png"]
)
def test_names_outside_of_the_folder_are_refused(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x" * len(name))
        info.filename = name  # past the cleaning of ZipInfo, as an attacker writes it
        archive.writestr(info, b"x")
    with pytest.raises(ArchiveError, match="lies outside of the archive's folder"):
        read_contents(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "images/a.png", b"1")
        add(archive, "images/./a.png", b"2")
    with pytest.raises(ArchiveError, match=r"two members have the name 'images/a.png'"):
        read_contents(path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO | 0o600])
def test_links_and_devices_are_refused(tmp_path, mode):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "link.png", b"/etc/passwd", mode)
        add(archive, "good.png", b"good")
    contents = read_contents(path)
    assert read_member(contents["good.png"]) == b"good"
    with pytest.raises(ArchiveError, match=r"'link.png' is a link or a device"):
        read_member(contents["link.png"])


def test_encrypted_members_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "secret.png")
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    for flags in (6, central + 8):
        content[flags : flags + 2] = struct.pack("<H", 1)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"'secret.png' is encrypted"):
        read_member(read_contents(path)["secret.png"])


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        add(archive, "bomb.png", bytes(20 * 2**20))
        add(archive, "white.bmp", bytes(2**20))
    contents = read_contents(path)
    with pytest.raises(ArchiveError, match=r"'bomb.png' unpacks from \d+ to 20971520 bytes, more than 200 times"):
        read_member(contents["bomb.png"])
    assert len(read_member(contents["white.bmp"])) == 2**20
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(ArchiveError, match=r"'white.bmp' has 1048576 bytes; at most 1000"):
        read_member(contents["white.bmp"])
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(ArchiveError, match="2 members; at most 1"):
        read_contents(path)


def test_a_size_that_lies_is_found_out(tmp_path):
    """The table of contents says less than what is packed: not more than it says is ever unpacked."""
    path = write_zip(tmp_path / "a.zip", {"a.bin": bytes(500_000)})
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="is damaged: size or checksum"):
        read_member(read_contents(path)["a.bin"])


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    if content.startswith(b"PK\x05\x06"):
        assert read_contents(path) == {}
        return
    with pytest.raises(ArchiveError, match=r"a.zip: not a zip archive"):
        read_contents(path)
    with pytest.raises(ArchiveError, match="there is no such archive"):
        read_contents(tmp_path / "b.zip")


@settings(max_examples=examples(60), deadline=None)
@given(
    st.binary(min_size=0, max_size=4000), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)
)
def test_damaged_archives_give_the_content_or_an_archive_error(tmp_path_factory, content, damages):
    path = write_zip(tmp_path_factory.mktemp("damaged") / "a.zip", {"a.bin": content, "b.bin": b"b"})
    data = bytearray(path.read_bytes())
    for position, value in damages:
        data[position % len(data)] = value
    path.write_bytes(data)
    try:
        contents = read_contents(path)
        read = {name: read_member(member) for name, member in contents.items()}
    except (ArchiveError, OSError):
        return
    # A name may have been damaged into another one, and an empty table of contents is one, too.
    assert set(read.values()) <= {content, b"b"}


def test_folders_with_magic_characters(tmp_path):
    archive = write_zip(tmp_path / "a[1]*" / "images.zip", FILES)
    split_file(archive, 2)
    assert set(read_contents(archive)) == set(FILES)
    assert not archive_parts(tmp_path / "a1" / "images.zip")
