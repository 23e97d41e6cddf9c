"""The audit: what it finds, what it says, its exit code, and that it changes nothing."""

import io
import json
import os

import pytest
from PIL import Image, ImageEnhance

import data_audit
from detector.data import shortcuts
from detector.data.tree import AUGMENTED
from tests.conftest import draw as picture

CELLS = [f"{split}/{name}" for split in ("train", "validation", "test") for name in ("Fake", "Real")]


def tree(root, number=3, cells=CELLS, **options):
    """Draw `number` different images in each cell and return the folder."""
    for cell_number, cell in enumerate(cells):
        (root / cell).mkdir(parents=True)
        for i in range(number):
            picture(1000 * cell_number + i).save(root / cell / f"{i}.jpg", quality=90, **options)
    return root


def audit(folder, report, capsys, *options):
    """Run the audit: (exit code, stdout lines, what stderr ends with, audit.json)."""
    code, said = 0, ""
    try:
        data_audit.main([str(folder), "--report", str(report), *options])
    except SystemExit as end:
        code, said = 1, str(end.code)
    out = capsys.readouterr().out.splitlines()
    written = report / "audit.json"
    return code, out, said, json.loads(written.read_text()) if written.is_file() else None


FEW = "metadata-only baseline not computed: a class has fewer than 30 different readable images"


def test_clean_tree_is_clean(tmp_path, capsys, contents):
    data = tree(tmp_path / "data")
    before = contents(data)
    code, out, said, report = audit(data, tmp_path / "audit", capsys)
    assert (code, said) == (0, "")
    assert out == [
        "            Fake  Real  total",
        "train          3     3      6",
        "validation     3     3      6",
        "test           3     3      6",
        f"warning: {FEW}",
        f"report: {tmp_path}/audit/audit.html, {tmp_path}/audit/audit.json",
    ]
    assert report["counts"] == {split: {"Fake": 3, "Real": 3} for split in ("train", "validation", "test")}
    assert report["findings"] == report["unreadable"] == report["near"]["found"] == []
    page = (tmp_path / "audit/audit.html").read_text("utf-8")
    assert "no shortcut" not in page, "it was not computed"
    assert page.count('src="data:image/') == page.count("<img") == 18 and "http" not in page and "$" not in page
    assert report["odd"] == {kind: [] for kind in data_audit.ODD}
    assert report["shortcut"] is None, "three images of a class say nothing"
    assert contents(data) == before
    assert sorted(os.listdir(tmp_path / "audit")) == ["audit.html", "audit.json"]
    audit(data, tmp_path / "audit", capsys)
    assert (tmp_path / "audit/audit.html").read_text("utf-8") == page, "the same images are drawn each time"


@pytest.mark.parametrize("options", [(), ("--quick",)])
def test_identical_content_is_counted_by_where_it_stands(tmp_path, capsys, options):
    data = tree(tmp_path / "data")
    twin = (data / "train/Fake/0.jpg").read_bytes()
    for place in ("train/Fake/again.jpg", "test/Fake/a.jpg", "test/Fake/b.jpg"):
        (data / place).write_bytes(twin)
    (data / "validation/Real/wrong.jpg").write_bytes((data / "validation/Fake/1.jpg").read_bytes())
    code, out, said, report = audit(data, tmp_path / "audit", capsys, *options)
    assert code == 1
    assert said == (
        "finding: 4 pairs of identical images across train and test; 1 pair of identical images within validation, "
        "one Fake and one Real; split again with data_split.py, which leaves duplicates out; remove the images whose label is wrong"
    )
    assert [line for line in out if line.startswith(("finding", "warning"))] == [
        "finding: 4 pairs of identical images across train and test",
        "finding: 1 pair of identical images within validation, one Fake and one Real",
        "warning: 1 pair of identical images within train",
        "warning: 1 pair of identical images within test",
        *([] if options else [f"warning: {FEW}"]),
    ]
    groups = {frozenset(group) for group in report["identical"]["groups"]}
    assert frozenset(["validation/Fake/1.jpg", "validation/Real/wrong.jpg"]) in groups
    assert frozenset(["train/Fake/0.jpg", "train/Fake/again.jpg", "test/Fake/a.jpg", "test/Fake/b.jpg"]) in groups
    assert not (report["near"] or {}).get("found"), "identical files are no near-duplicates"


@pytest.mark.parametrize("options", [(), ("--quick",)])
def test_augmented_images_that_leak_are_a_finding(tmp_path, capsys, options):
    data = tree(tmp_path / "data")
    held = [data / "validation/Fake/sub/held.jpg", data / "test/Real/also.jpg"]
    made = [data / f"train/Fake/sub/held.jpg{AUGMENTED}00.jpg", data / f"train/Real/also.jpg{AUGMENTED}01.jpg"]
    # the originals of these are in train (test/Fake/0.jpg is another picture) or gone
    fine = [data / f"train/Fake/0.jpg{AUGMENTED}00.jpg", data / f"train/Fake/sub/gone.jpg{AUGMENTED}00.jpg"]
    astray = [data / f"test/Fake/0.jpg{AUGMENTED}00.jpg"]
    for i, path in enumerate([*held, *made, *fine, *astray]):
        path.parent.mkdir(exist_ok=True)
        picture(70_000 + i).save(path, quality=90)
    code, _, said, report = audit(data, tmp_path / "audit", capsys, *options)
    relative = [[path.relative_to(data).as_posix() for path in paths] for paths in (held, made, astray)]
    assert code == 1
    assert report["findings"] == [
        "2 augmented images in train made from an image in validation or test",
        "1 augmented image in validation or test",
    ]
    assert said == (
        f"finding: {'; '.join(report['findings'])}; remove these augmented images, or all with data_deleter.py --augmented"
    )
    assert report["augmented"] == {
        "leaks": [list(pair) for pair in zip(relative[1], relative[0], strict=True)], "held_out": relative[2]
    }  # fmt: skip
    page = (tmp_path / "audit/audit.html").read_text("utf-8")
    assert page.count('<div class="pair leak">') == 3
    assert all(f"<figcaption>{path}</figcaption>" in page for paths in relative for path in paths)


def test_what_is_passed_over_is_a_warning(tmp_path, capsys):
    data = tree(tmp_path / "data")
    (data / "notes.txt").write_text("x")
    (data / "test/list.csv").write_text("x")
    (data / "train/Real/more").symlink_to(tmp_path, target_is_directory=True)
    (data / "train/Fake/._a.jpg").write_text("x")
    (data / "train/Fake/.cache").mkdir()
    code, _, _, report = audit(data, tmp_path / "audit", capsys)
    assert code == 0 and all(line.startswith("skipped, ") for line in report["warnings"][-3:])
    assert report["passed_over"] == {
        "links": ["train/Real/more"], "loose": ["notes.txt", "test/list.csv"], "hidden": ["train/Fake/._a.jpg", "train/Fake/.cache"]
    }  # fmt: skip


def test_near_duplicates_are_found_and_blank_images_are_not(tmp_path, capsys):
    data = tree(tmp_path / "data")
    again = io.BytesIO()
    picture(0).save(again, "JPEG", quality=60)
    (data / "test/Fake/saved_again.jpg").write_bytes(again.getvalue())
    ImageEnhance.Brightness(picture(1)).enhance(1.1).save(data / "train/Real/brighter.jpg", quality=90)
    picture(2, (96, 96)).save(data / "train/Fake/larger.png")
    for i in range(4):
        Image.new("RGB", (48, 48), (200, 200, 20 * i)).save(data / f"train/Fake/blank{i}.jpg")
    code, _, _, report = audit(data, tmp_path / "audit", capsys)
    assert code == 0
    assert report["warnings"] == [
        "1 pair of near-duplicate images within train, one Fake and one Real",
        "1 pair of near-duplicate images across train and test",
        "1 pair of near-duplicate images within train",
        "4 images blank: one colour throughout",
        FEW,
    ]
    found = {frozenset(pair["paths"]) for pair in report["near"]["found"]}
    assert found == {
        frozenset(["train/Fake/0.jpg", "test/Fake/saved_again.jpg"]),
        frozenset(["train/Fake/1.jpg", "train/Real/brighter.jpg"]),
        frozenset(["train/Fake/2.jpg", "train/Fake/larger.png"]),
    }
    assert all(pair["likeness"] >= 0.94 and pair["bits"] <= 7 for pair in report["near"]["found"])


def test_unreadable_and_odd_files_are_named_and_no_finding(tmp_path, capsys):
    data = tree(tmp_path / "raw", cells=["FAKE", "REAL"])
    whole = (data / "FAKE/0.jpg").read_bytes()
    (data / "FAKE/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "FAKE/empty.jpg").write_bytes(b"")
    (data / "FAKE/text.jpg").write_text("no image")
    picture(50, (12, 40)).save(data / "REAL/tiny.png")
    picture(51, (300, 20)).save(data / "REAL/long.png")
    picture(52).save(data / "REAL/really_png.jpg", "PNG")
    picture(53).save(data / "REAL/film.gif", save_all=True, append_images=[picture(54)])
    code, out, said, report = audit(data, tmp_path / "audit", capsys)
    assert (code, said) == (0, "")
    assert report["counts"] == {"unsplit": {"Fake": 6, "Real": 7}}
    assert report["odd"] == {
        "tiny": ["REAL/tiny.png"], "long": ["REAL/long.png"], "blank": [], "animated": ["REAL/film.gif"],
        "misnamed": ["REAL/really_png.jpg"],
    }  # fmt: skip
    assert [entry["path"] for entry in report["unreadable"]] == ["FAKE/cut.jpg", "FAKE/empty.jpg", "FAKE/text.jpg"]
    assert [line for line in out if "unreadable, found" in line] == [
        "warning: unreadable, found a damaged one: 1 file (FAKE/cut.jpg)",
        "warning: unreadable, found a damaged or another kind of file: 2 files (FAKE/empty.jpg, FAKE/text.jpg)",
    ]


@pytest.fixture
def small_forests(monkeypatch):
    monkeypatch.setattr(shortcuts, "FOLDS", 2)
    monkeypatch.setattr(shortcuts, "REPEATS", 1)


def test_formats_that_differ_are_a_shortcut(tmp_path, capsys, small_forests):
    data = tree(tmp_path / "data", 60, ["train/Fake", "train/Real"])
    for path in sorted((data / "train/Fake").iterdir()):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    code, _, said, report = audit(data, tmp_path / "audit", capsys)
    assert code == 1
    assert report["shortcut"]["auc"] > 0.99 and report["shortcut"]["interval"][0] > 0.65
    by_fact = {row["fact"]: row for row in report["shortcut"]["facts"]}
    assert (by_fact["format"]["Fake"], by_fact["format"]["Real"]) == ("PNG 100%", "JPEG 100%")
    assert by_fact["format"]["alone"] == 1
    assert said.startswith("finding: file features alone separate Fake from Real: AUC 1.000 (1.000 to 1.000), carried by ")
    assert said.endswith("; bring both classes to the same sizes, format, quality and metadata")
    assert "\n" not in said
    page = (tmp_path / "audit/audit.html").read_text()
    assert "Metadata-only baseline" in page and "PNG 100%" in page


def test_balanced_files_hold_no_shortcut(tmp_path, capsys, small_forests):
    data = tree(tmp_path / "data", 100, ["train/Fake", "train/Real"])
    code, _, _, report = audit(data, tmp_path / "audit", capsys)
    assert report["shortcut"]["interval"][0] < 0.55
    assert (code, report["findings"], report["warnings"]) == (0, [], [])
    assert report["images"] == report["shortcut"]["images"] == 200, "on all cores the same as in one process"


def test_hostile_file_names_do_no_harm(tmp_path, capsys):
    data = tree(tmp_path / "data", 2, ["FAKE", "REAL"])
    names = ["<script>alert(1)<", "a\"onerror='x'&amp;", "line\nbreak\x1b[31m", os.fsdecode(b"not-utf8-\xff"), "$folder {x}", "🙂"]
    for i, name in enumerate(names):
        picture(100 + i).save(data / "FAKE/x.jpg")
        os.rename(data / "FAKE/x.jpg", data / "FAKE" / f"{name}.jpg")
    (data / "REAL/bad\x1b[31m\n.jpg").write_text("no image")
    code, out, _, report = audit(data, tmp_path / "audit", capsys)
    assert code == 0
    page = (tmp_path / "audit/audit.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;.jpg" in page
    assert "a&#34;onerror=&#39;x&#39;&amp;amp;.jpg" in page
    assert "\x1b" not in page + "".join(out) and r"line\nbreak\x1b[31m.jpg" in page and r"not-utf8-\udcff.jpg" in page
    assert r"warning: unreadable, found a damaged or another kind of file: 1 file (REAL/bad\x1b[31m\n.jpg)" in out
    assert f"FAKE/{names[3]}.jpg" not in [entry["path"] for entry in report["unreadable"]]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "{d}/data: expected a folder with class folders, found nothing of that name; check the path"),
        (lambda d: (tree(d / "data", 1, ["FAKE"]) / "REAL").mkdir(),
         "{d}/data/REAL: expected images of class Real, found an empty folder; fill or remove it"),
        (lambda d: (tree(d / "data", 1), (d / "audit").symlink_to(d / "data/train/Fake")),
         "{d}/audit: expected a folder outside the source {d}/data; choose another --report"),
        (lambda d: (tree(d / "data", 1), (d / "audit").write_text("x")),
         "{d}/audit: expected a folder with images, found a file; check the path"),
        (lambda d: (tree(d / "data", 1), (d / "audit").mkdir(), (d / "audit/audit.json").write_text("{}")),
         "{d}/audit/audit.json: expected an earlier report or nothing, found another file; choose another with --report"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, capsys, contents, prepare, message):
    prepare(tmp_path)
    before = contents(tmp_path)
    code, out, said, _ = audit(tmp_path / "data", tmp_path / "audit", capsys)
    assert (code, out, said) == (1, [], f"error: {message.format(d=tmp_path)}")
    assert contents(tmp_path) == before


def test_metadata_that_no_parser_takes_does_not_end_the_audit(tmp_path, capsys):
    data = tree(tmp_path / "raw", cells=["FAKE", "REAL"])
    film = io.BytesIO()
    picture(60).save(film, "PNG", save_all=True, append_images=[picture(61), picture(62)])
    (data / "REAL/cut.png").write_bytes(film.getvalue()[: len(film.getvalue()) * 3 // 4])
    code, _, _, report = audit(data, tmp_path / "audit", capsys)
    assert (code, report["images"], report["unreadable"]) == (0, 7, [])
