"""The application in this process, with the shipped detector of small images, and images to give to it."""

import io
import zlib

import pytest
from starlette.testclient import TestClient

from detector.inference import Predictor, attribution
from detector.model import export
from detector.web.api import create_app
from tests.conftest import draw

MODEL = export.SHIPPED / "compact.h5"
HOSTILE = "<img src=x onerror=alert(1)> {{this}} ${alert(2)} =1+1.png"


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side=60_000):
    """Return a PNG of a few kilobytes whose header promises side x side pixels."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def coarse_heat_maps(monkeypatch):
    """Make heat maps from few masked images: what they show is tested with detector.inference.attribution."""
    monkeypatch.setattr(attribution, "SMALL_PASSES", attribution.MIN_PASSES)


@pytest.fixture(scope="package")
def predictor():
    return Predictor(MODEL)


@pytest.fixture(scope="package")
def client(predictor):
    return TestClient(create_app(predictor))


@pytest.fixture(scope="package")
def pictures(tmp_path_factory):
    """A folder with one.png (32 px), two.jpg (300 px), a hostile name, a broken file and a decompression bomb."""
    folder = tmp_path_factory.mktemp("pictures")
    draw("one").save(folder / "one.png")
    draw("two", (300, 200)).save(folder / "two.jpg")
    draw("one").save(folder / HOSTILE)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff hello")
    (folder / "bomb.png").write_bytes(bomb(8_000))
    return folder
