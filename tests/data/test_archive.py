import argparse
import io
import lzma
import os
import re
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.console import InputError, printable
from detector.data import archive
from detector.data.archive import Damaged, Names, check_size, header_agrees, least_size, safe_parts, tar_entries


class Taken(io.BytesIO):
    """A stream as tar_entries wants it, from bytes."""

    def take(self, size, padding=0):
        return self.read(size + padding)[:size]


@pytest.mark.parametrize("name", ["/x", "\\x", "C:/x", "c:x", "a/../x", "..", "../x", "a\\..\\..\\x", "a/.."])
def test_a_name_that_leaves_is_refused(name):
    with pytest.raises(InputError, match=r"has an absolute path|leads out of its folder by '\.\.'"):
        safe_parts(name)
    with pytest.raises(InputError, match=r"has an absolute path|leads out of its folder by '\.\.'"):
        Names().add(name)
    with pytest.raises(InputError, match=r"has an absolute path|leads out of its folder by '\.\.'"):
        Names().add_folder(name)


@pytest.mark.parametrize("name", ["a/b", "./a/b", "a//b", "a\\b", "a/./b"])
def test_one_name_in_several_spellings(name):
    assert safe_parts(name) == ["a", "b"]
    assert Names().add(name) == "a/b"


@pytest.mark.parametrize("name", ["a/con", "a/CON.jpg", "a/x.", "a /x", "a/x?.jpg", "lpt1/x", "a/\x01"])
def test_a_name_that_windows_refuses(name):
    assert safe_parts(name, windows=False)
    with pytest.raises(InputError, match="has a name that Windows does not accept; unpack it on another system"):
        safe_parts(name, windows=True)


@pytest.mark.parametrize("name", ["__MACOSX/a.jpg", "a/__MACOSX/b/c.jpg", "a/.DS_Store", "Thumbs.db", "a/._b.jpg"])
def test_litter_is_none(name):
    assert Names().add(name) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.jpg", "a/X.JPG"], "two entries are called a/X.JPG, upper and lower case ignored: one would overwrite the other"),
        (["x", "x"], "two entries are called x, upper and lower case ignored: one would overwrite the other"),
        (["é", "e\u0301"], "two entries are called e\u0301, upper and lower case ignored: one would overwrite the other"),
        (["straße", "STRASSE"], "two entries are called STRASSE, upper and lower case ignored: one would overwrite the other"),
        (["Real/a", "REAL/b"], "the folders Real and REAL are one, upper and lower case ignored"),
        (["a", "a/b"], "a is both a file and a folder"),
        (["a/b", "A"], "A is both a file and a folder"),
    ],
)
def test_colliding_names(names, message):
    taken = Names()
    taken.add(names[0])
    with pytest.raises(InputError) as error:
        taken.add(names[1])
    assert str(error.value) == message


def test_links():
    names = Names()
    assert names.add_link("a/l", "../b/x") == ("a/l", "b/x")
    assert names.add_link("a/h", "b/x", hard=True) == ("a/h", "b/x")
    for points_to in ("../../x", "/etc/passwd", "C:\\x", "b/../../../x", "\\x"):
        with pytest.raises(InputError, match="the link a/m leads out of its folder, to"):
            Names().add_link("a/m", points_to)


@given(st.lists(st.text(alphabet="ab./\\:A", min_size=1, max_size=8), max_size=6))
def test_whatever_comes_stays_inside_and_apart(raw):
    names, kept = Names(), []
    for name in raw:
        try:
            path = names.add(name)
        except InputError:
            continue
        if path is not None:
            kept.append(path)
    for path in kept:
        assert not path.startswith("/") and os.path.normpath(path) == path and not (path + "/").startswith("../")
        assert not re.match("[A-Za-z]:", path)
    assert len({path.lower() for path in kept}) == len(kept)


def test_bombs():
    check_size(10**9, 10**7, 10**9)
    with pytest.raises(InputError, match=r"it unpacks to more than 1\.0 GB; if that is meant, allow it with --max-size"):
        check_size(10**9 + 1, 10**9, 10**9)
    check_size(64 << 20, 1, 10**12)
    with pytest.raises(InputError, match="it unpacks to more than 1,000 times its size: it looks like a bomb, not like images"):
        check_size((64 << 20) + 1, 1000, 10**12)


def test_names_are_shown_on_one_line():
    assert printable("a b.jpg") == "a b.jpg"
    assert printable("a\nb\udc80") == "a\\nb\\udc80"
    assert [archive.show_size(size) for size in (12, 1500, 10**12)] == ["12 bytes", "1.5 KB", "1.0 TB"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_of_every_form(form):
    """Long names, long links, large numbers and non-ASCII names, against what tarfile wrote."""
    long = "/".join(["folder" * 5] * 4) + "/image é.jpg"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as file:
        for name, size in ((long, 5), ("a.jpg", 0), ("b.jpg", 513)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.addfile(info, io.BytesIO(bytes(range(1, 256)) * 3))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, long if form != tarfile.USTAR_FORMAT else "b.jpg"
        file.addfile(info)
    stream, found = Taken(packed.getvalue()), []
    for name, kind, size, link in tar_entries(stream):
        found.append((name, kind, size, link))
        stream.take(size + -size % 512)
    assert found == [
        (long, b"0", 5, ""), ("a.jpg", b"0", 0, ""), ("b.jpg", b"0", 513, ""),
        ("link", b"2", 0, long if form != tarfile.USTAR_FORMAT else "b.jpg"),
    ]  # fmt: skip


def test_a_size_in_base_256():
    info = tarfile.TarInfo("large.bin")
    info.size = 1 << 40
    (name, _, size, _), *_ = [next(tar_entries(Taken(info.tobuf(tarfile.GNU_FORMAT))))]
    assert (name, size) == ("large.bin", 1 << 40)


@given(st.binary(min_size=512, max_size=512), st.integers(0, 511), st.integers(1, 255))
def test_header_checksum(noise, at, change):
    head = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    assert header_agrees(bytes(head))
    head[at] = (head[at] + change) % 256
    if not 148 <= at < 156:
        assert not header_agrees(bytes(head))
    header_agrees(noise)  # says yes or no, whatever comes


@given(st.binary(max_size=2000))
def test_noise_after_a_header_is_damage(noise):
    stream = Taken(tarfile.TarInfo("a.jpg").tobuf() + noise)
    entries = tar_entries(stream)
    assert next(entries)[0] == "a.jpg"
    try:
        for _ in entries:
            pass
    except Damaged as error:
        assert "after a.jpg" in str(error) or "header" in str(error)


def test_unpacked_size_is_told_without_unpacking(tmp_path):
    content = os.urandom(1000) + bytes(200_000)
    path = tmp_path / "x.tar.xz"
    path.write_bytes(lzma.compress(content))
    assert least_size(path, "xz") == 201_000
    path.write_bytes(lzma.compress(content) + b"cut")
    assert least_size(path, "xz") == path.stat().st_size
    packed = bytearray(lzma.compress(content))
    packed[-20] ^= 1
    path.write_bytes(packed)
    assert least_size(path, "xz") == path.stat().st_size


def test_a_zip_entry_is_never_more_than_it_declares(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(100_000))
        info = file.getinfo("a")
    data = path.read_bytes()
    entry = archive.ZipEntry("a", 10, 0, info.compress_size, info.CRC, 8)
    with pytest.raises(Damaged, match="size or CRC-32 do not agree"):
        archive.whole_entry(data, entry)
    with path.open("rb") as file, pytest.raises(Damaged):
        file.seek(archive.content_start(data, entry))
        assert len(b"".join(archive.entry_pieces(file, entry))) <= 10


def test_sizes_on_the_command_line():
    from data_unzipper import parse_size

    assert [parse_size(text) for text in ("1000", "50GB", "1.5 TiB", "2k", "3MB")] == [1000, 50 * 10**9, 3 << 39, 2000, 3 * 10**6]
    for text in ("", "GB", "5 apples", "-1", "5IB", "9" * 400):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a size such as 50GB, received"):
            parse_size(text)
