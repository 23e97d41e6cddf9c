"""The audit's page: its pieces."""
from PIL import Image

from detector.reports import audit_page


def test_pictures_are_thumbnails_and_small_ones_keep_their_pixels(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "small.jpg")
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.png")
    (tmp_path / "none.jpg").write_text("no image")
    uri, small = audit_page.picture(tmp_path, "small.jpg")
    assert uri.startswith("data:image/png;base64,") and small
    uri, small = audit_page.picture(tmp_path, "large.png")
    assert uri.startswith("data:image/jpeg;base64,") and not small and len(uri) < 5000
    assert audit_page.picture(tmp_path, "none.jpg") is None
    assert audit_page.picture(tmp_path, "absent.jpg") is None
    assert "cannot be read" in audit_page.figure("none.jpg", None)


def test_sheets_are_seeded_and_limited():
    paths = [f"train/Fake/{i}.jpg" for i in range(500)]
    places = [("train", "Fake")] * 500
    sheets = audit_page.choose_sheets(paths, places)
    assert sheets == audit_page.choose_sheets(paths, places)
    assert len(set(sheets["train", "Fake"])) == audit_page.SHEET


def test_names_become_harmless_text():
    assert audit_page.text("<b>\x1b\udcff&\"'") == r"&lt;b&gt;\x1b\udcff&amp;&quot;&#x27;"
