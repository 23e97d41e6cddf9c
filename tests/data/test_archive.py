import contextlib
import io
import os
import random
import re
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.console import InputError
from detector.data import archive
from detector.data.archive import DUPLICATES, JUNK, LINKS, check_size, extract, safe_path

LIMIT = 10**12
TREE = {f"set/{name}/{i}.jpg": random.Random(f"{name}{i}").randbytes(3000) for name in ("Fake", "Real") for i in range(10)}


@pytest.fixture
def unpack(tmp_path, contents):
    """Give unpack(archive) -> (Extraction, {path: bytes})."""

    def run(path, max_size=LIMIT):
        root = tmp_path / "root"
        if root.exists():
            root.rename(tmp_path / f"before {len(os.listdir(tmp_path))}")
        root.mkdir()
        return extract(path, root, max_size), contents(root)

    return run


def make_zip(path, *entries, method=zipfile.ZIP_STORED):
    """Write entries (name, content) or (ZipInfo, content), names twice too, or a dict."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")
        for name, content in entries[0].items() if isinstance(entries[0], dict) else entries:
            file.writestr(name, content)
    return path


def windows_entry(name, content=b"", attributes=0x20):
    info = zipfile.ZipInfo("x")
    info.filename, info.create_system, info.external_attr = name, 0, attributes
    return info, content


def unix_entry(name, mode, content=b"x"):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info, content


def make_tar(path, *entries, mode="w", form=tarfile.GNU_FORMAT):
    """Write entries (name, content) or (TarInfo, content), or a dict."""
    with tarfile.open(path, mode, format=form) as file:
        for name, content in entries[0].items() if isinstance(entries[0], dict) else entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def tar_entry(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


# --- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["/x", "\\x", "C:/x", "a/../x", "..", "../x", "a\\..\\..\\x", "a/..", "a\0b", "d/" * 1500 + "x"])
def test_a_name_that_leaves_is_refused(name):
    with pytest.raises(InputError, match=r"has an absolute path|leads out of its folder by '\.\.'|zero byte|1,501 folders deep"):
        safe_path(name)


@pytest.mark.parametrize("name", ["a/b", "./a/b", "a//b", "a/./b", "a/b/"])
def test_one_name_in_several_spellings(name):
    assert safe_path(name) == "a/b"


@pytest.mark.parametrize("name", ["a/con", "a/CON.jpg", "a/x.", "a /x", "a/x?.jpg", "lpt1/x", "a/\x01", "a\\b", "c:x"])
def test_a_name_that_windows_refuses(name):
    assert safe_path(name, windows=False) == name
    with pytest.raises(InputError, match="has a name that Windows does not accept"):
        safe_path(name, windows=True)


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="ab./\\:A", min_size=1, max_size=8))
def test_whatever_comes_stays_inside(name):
    with contextlib.suppress(InputError):
        path = safe_path(name)
        assert not path.startswith("/") and path in ("", os.path.normpath(path)) and not (path + "/").startswith("../")
        assert not re.fullmatch("[A-Za-z]:", path.split("/")[0])


def test_names_that_are_one_on_this_disk_are_refused(unpack, tmp_path, monkeypatch):
    entries = [("set/aB.jpg", b"1"), ("set/Ab.jpg", b"2")]
    paths = make_zip(tmp_path / "a.zip", *entries), make_tar(tmp_path / "a.tar", *entries)
    if not (tmp_path / "A.ZIP").exists():
        for path in paths:
            assert unpack(path)[1] == dict(entries)
    write = archive._write
    monkeypatch.setattr(archive, "_write", lambda path, pieces: write(path.lower(), pieces))  # as a disk that ignores case
    for path in paths:
        with pytest.raises(InputError, match=r"set/ab\.jpg is both a file and a folder, or on this disk the same name"):
            unpack(path)


# --- what is inside ----------------------------------------------------------------------------------------------------
def test_equal_names_give_the_last(unpack, tmp_path):
    entries = [("a/x.jpg", b"old"), ("a/y.jpg", b"y"), ("a/x.jpg", b"new")]
    linked = [("a/x.jpg", b"old"), tar_entry("a/y.jpg", tarfile.LNKTYPE, "a/x.jpg"), ("a/x.jpg", b"new")]
    tars = make_tar(tmp_path / "a.tar", *entries), make_tar(tmp_path / "b.tar", *linked)
    for path in (make_zip(tmp_path / "a.zip", *entries), *tars):
        result, found = unpack(path)
        assert found == {"a/x.jpg": b"new", "a/y.jpg": b"old" if path.name == "b.tar" else b"y"}
        assert dict(result.skipped) == {DUPLICATES: ["a/x.jpg"]} and result.files == 2


def test_a_file_given_twice_to_gnu_tar_is_kept(unpack, tmp_path):
    """GNU tar stores the second as a hard link to itself: `find photos | tar -cf a.tar -T -`."""
    result, found = unpack(make_tar(tmp_path / "a.tar", ("a/x.jpg", b"x"), tar_entry("a/x.jpg", tarfile.LNKTYPE, "a/x.jpg")))
    assert found == {"a/x.jpg": b"x"} and not result.damaged and result.files == 1


def test_a_sparse_file_is_refused(unpack, tmp_path):
    info = tarfile.TarInfo("a/x.jpg")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    with pytest.raises(InputError, match=r"x\.jpg is a sparse file; pack the folder again, without --sparse"):
        unpack(make_tar(tmp_path / "a.tar", (info, b"x"), form=tarfile.PAX_FORMAT))


def test_links_devices_and_litter(unpack, tmp_path):
    zipped = make_zip(
        tmp_path / "a.zip", ("a/0.jpg", b"0"), ("a/.0.jpg", b"h"), ("a/._0.jpg", b"x"), unix_entry("a/l", 0o120777, b"/etc/passwd"),
        unix_entry("a/d", stat.S_IFBLK | 0o600),
    )  # fmt: skip
    result, found = unpack(zipped)
    assert found == {"a/0.jpg": b"0", "a/.0.jpg": b"h"}
    assert dict(result.skipped) == {JUNK: ["a/._0.jpg"], LINKS: ["a/l", "a/d"]}
    packed = make_tar(
        tmp_path / "a.tar", ("a/0.jpg", b"0"), ("__MACOSX/x", b"x"), tar_entry("a/l", tarfile.SYMTYPE, "/etc"), ("a/l/x.jpg", b"x"),
        tar_entry("a/d", tarfile.CHRTYPE), tar_entry("a/p", tarfile.FIFOTYPE), tar_entry("label", b"V"),
        tar_entry("b/1.jpg", tarfile.LNKTYPE, "a/0.jpg"), tar_entry("b/2.jpg", tarfile.LNKTYPE, "a/absent.jpg"),
        tar_entry("empty", tarfile.DIRTYPE),
    )  # fmt: skip
    result, found = unpack(packed)
    assert found == {"a/0.jpg": b"0", "a/l/x.jpg": b"x", "b/1.jpg": b"0"} and (tmp_path / "root/empty").is_dir()
    assert dict(result.skipped) == {JUNK: ["__MACOSX/x"], LINKS: ["a/l", "a/d", "a/p", "label"]}
    assert len(result.damaged) == 1 and result.damaged[0].startswith("b/2.jpg")
    with pytest.raises(InputError, match="leads out of its folder"):
        unpack(make_tar(tmp_path / "b.tar", tar_entry("b/1.jpg", tarfile.LNKTYPE, "../../x")))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_form(unpack, tmp_path, form):
    entries = {"/".join(["folder" * 5] * 4) + "/image é.jpg": b"x" * 600, "a.jpg": b""}
    assert unpack(make_tar(tmp_path / "a.tar", *entries.items(), form=form))[1] == entries


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz", "zst"])
def test_a_tar_cut_short_or_damaged_keeps_what_came_before(unpack, tmp_path, packing):
    plain = make_tar(tmp_path / "plain", TREE)
    path, names = tmp_path / "set", list(TREE)
    if packing == "zst":
        path.write_bytes(pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(plain.read_bytes()))
    else:
        make_tar(path, TREE, mode=f"w:{packing}")
    whole = path.read_bytes()
    assert unpack(path)[1] == TREE
    least = 0 if packing in ("bz2", "zst") else 6  # those unpack in blocks of 100 kB and more
    for data in (whole[: len(whole) // 2], whole[:-20_000], whole[:40_000] + bytes(500) + whole[40_500:]):
        path.write_bytes(data)
        result, found = unpack(path)
        if len(data) < len(whole):
            assert found == {name: TREE[name] for name in names[: len(found)]}
        elif not packing:
            continue  # a plain tar has no checksum of its content
        assert len(result.damaged) == 1 and least <= len(found) == result.files


def test_damage_between_two_entries_is_reported(unpack, tmp_path):
    """TarFile alone takes a damaged header for the end of the archive."""
    path = make_tar(tmp_path / "a.tar", TREE)
    data = bytearray(path.read_bytes())
    data[data.index(b"set/Real/0.jpg") + 150] ^= 1
    path.write_bytes(data)
    result, found = unpack(path)
    assert len(found) == 10 and "a damaged header, or none, at byte" in result.damaged[0]
    whole = make_tar(path, TREE).read_bytes().rstrip(b"\0")
    path.write_bytes(whole + bytes(-len(whole) % 512))
    result, found = unpack(path)
    assert found == TREE and "a damaged header, or none, at byte" in result.damaged[0]


@pytest.mark.parametrize("size", [b"-0000000001\0", b"\xff" * 12, b"zzzzzzzzzzz\0"])
def test_a_tar_with_an_impossible_size(unpack, tmp_path, size):
    path = make_tar(tmp_path / "a.tar", ("a.jpg", b"x"), ("b.jpg", b"x" * 600))
    data = bytearray(path.read_bytes())
    data[1024 + 124 : 1024 + 136] = size
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    path.write_bytes(data)
    result, found = unpack(path)
    assert found == {"a.jpg": b"x"} and len(result.damaged) == 1


def test_a_header_that_would_fill_the_memory(unpack, tmp_path):
    path = make_tar(tmp_path / "a.tgz", ("a.jpg", b"x"), (tar_entry("x", b"L")[0], b"n" * (2 << 20)), mode="w:gz")
    result, _ = unpack(path)
    assert "a header of 2,097,152 bytes" in result.damaged[0]
    path = make_tar(tmp_path / "b.tgz", ("a.jpg", b"x"), *[(tar_entry("x", b"L")[0], b"n") for _ in range(3000)], mode="w:gz")
    assert len(unpack(path)[0].damaged) == 1


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=3000))
def test_noise_after_an_entry_is_damage(tmp_path_factory, noise):
    root = tmp_path_factory.mktemp("noise")
    path = root / "a.tar"
    path.write_bytes(tarfile.TarInfo("a.jpg").tobuf() + noise)
    try:
        result = extract(path, tmp_path_factory.mktemp("root"), LIMIT)
    except InputError:
        return
    assert result.damaged or noise[:512] == bytes(512)


@pytest.mark.parametrize("tail", [b"\r\n", b"\n", b"-----END-----" * 30])
def test_bytes_after_a_gzip_stream(unpack, tmp_path, tail):
    path = make_tar(tmp_path / "a.tgz", TREE, mode="w:gz")
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    result, found = unpack(path)
    assert found == TREE and not result.damaged
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    result, found = unpack(path)
    assert found == TREE and len(result.damaged) == 1  # the checksum at the very end is read


def test_zstandard_without_the_library(unpack, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(InputError, match="pip install zstandard"):
        unpack(tmp_path / "a.tar.zst")


def test_bombs(unpack, tmp_path):
    check_size(10**9, 10**7, 10**9)
    check_size(64 << 20, 1, 10**12)
    with pytest.raises(InputError, match="looks like a bomb"):
        check_size((64 << 20) + 1, 1000, 10**12)
    entries = [("b.jpg", b"b"), ("a.jpg", bytes(3_000_000))]
    zipped = make_zip(tmp_path / "a.zip", *entries, method=zipfile.ZIP_DEFLATED)
    for path in (zipped, make_tar(tmp_path / "a.txz", *entries, mode="w:xz")):
        with pytest.raises(InputError, match="--max-size"):
            unpack(path, max_size=2_000_000)


# --- zip ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_of_every_method(unpack, tmp_path, monkeypatch, method):
    path = make_zip(tmp_path / "a.zip", TREE, method=method)
    assert unpack(path)[1] == TREE
    monkeypatch.setattr(archive, "WRITE_AT_ONCE", 100)
    monkeypatch.setattr(archive, "ENTRIES_PER_TASK", 3)
    assert unpack(path)[1] == TREE
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\3\4", 1) + 60
    data[start : start + 1000] = random.Random(1).randbytes(1000)
    path.write_bytes(data)
    result, found = unpack(path)
    assert [line.partition(" ")[0] for line in result.damaged] == ["set/Fake/1.jpg"] and found == {
        k: v for k, v in TREE.items() if k != "set/Fake/1.jpg"
    }
    path.write_bytes(data[:-300])
    with pytest.raises(InputError, match="a zip whose directory cannot be read"):
        unpack(path)


def change_directory(path, at, value, fmt="<H"):
    """Change a field of the first entry in the directory at the end of a zip."""
    data = bytearray(path.read_bytes())
    struct.pack_into(fmt, data, data.index(b"PK\1\2") + at, value)
    path.write_bytes(data)


def test_entries_that_are_not_what_the_directory_says(unpack, tmp_path):
    path = make_zip(tmp_path / "a.zip", ("a.jpg", bytes(100_000)), ("b.jpg", b"b"), method=zipfile.ZIP_DEFLATED)
    change_directory(path, 10, 9)
    assert "is not supported" in unpack(path)[0].damaged[0]
    change_directory(path, 10, 8)
    change_directory(path, 24, 10, "<I")  # a smaller size, and its checksum
    change_directory(path, 16, zlib.crc32(bytes(10)), "<I")
    result, found = unpack(path)
    assert (len(result.damaged), found) == (1, {"b.jpg": b"b"})
    change_directory(path, 42, 7, "<I")
    assert "no header" in unpack(path)[0].damaged[0]
    change_directory(path, 8, 1)
    with pytest.raises(InputError, match=r"the entry a\.jpg is encrypted"):
        unpack(path)


@pytest.mark.parametrize("folders", [[windows_entry("set\\Fake\\", attributes=0x10)], [windows_entry("set\\Fake\\")], []])
def test_backslashes_between_folders(unpack, tmp_path, folders):
    files = [windows_entry(f"set\\Fake\\{i}.jpg", b"x") for i in range(3)]
    result, found = unpack(make_zip(tmp_path / "a.zip", *folders, *files, windows_entry("set\\new folder\\", attributes=0x10)))
    assert found == {f"set/Fake/{i}.jpg": b"x" for i in range(3)} and not result.skipped and not result.damaged


@pytest.mark.parametrize("odd", [windows_entry("set/Fake", attributes=0x10), windows_entry("set/Fake"), ("set/Fake/", b"")])
def test_odd_entries_for_folders(unpack, tmp_path, odd):
    assert unpack(make_zip(tmp_path / "a.zip", odd, ("set/Fake/0.jpg", b"x")))[1] == {"set/Fake/0.jpg": b"x"}


def raw_names(path, names, encoding):
    """Write a zip whose names are in a code page, without the UTF-8 flag."""

    class RawName(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):
            return self.filename.encode(encoding), self.flag_bits

    return make_zip(path, *((RawName(name), b"%d" % index) for index, name in enumerate(names)))


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp932", ["set/Fake/n1.jpg", "set/Fake/予表.jpg", "set/Real/ソ.jpg", "set/Real/表_01.jpg", "set/Real/能.jpg"]),
        ("big5", ["set/Fake/成功.jpg", "set/Real/功.jpg", "set/Real/許.jpg"]),
        ("gbk", ["set/Fake/誠.jpg", "set/Real/昞.jpg"]),
        ("utf-8", ["set/Fake/写真.jpg", "set/Real/cafe\u0301.jpg"]),
        ("cp437", ["set/Fake/café.jpg"]),
    ],
)
def test_names_in_code_pages(unpack, tmp_path, encoding, names):
    result, found = unpack(raw_names(tmp_path / "a.zip", names, encoding))
    assert sorted(found.values()) == [b"%d" % index for index in range(len(names))]
    assert not any(name.rpartition("/")[2].startswith(".") or "\\" in name for name in found) and not result.skipped
    if encoding != "gbk":
        assert set(found) == set(names)
