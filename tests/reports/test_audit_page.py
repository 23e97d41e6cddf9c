"""The audit's page: its pieces."""

from PIL import Image

from detector.reports import audit_page


def test_thumbnails_keep_the_pixels_of_small_images(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "small.jpg")
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.png")
    (tmp_path / "none.jpg").write_text("no image")
    small = audit_page.thumbnail(tmp_path, "small.jpg")
    assert small["uri"].startswith("data:image/png;base64,") and small["small"]
    large = audit_page.thumbnail(tmp_path, "large.png")
    assert large["uri"].startswith("data:image/jpeg;base64,") and not large["small"] and len(large["uri"]) < 5000
    assert audit_page.thumbnail(tmp_path, "none.jpg") is audit_page.thumbnail(tmp_path, "absent.jpg") is None
