"""The application in this process, with the shipped detector of small images, and images to give to it."""

import pytest
from starlette.testclient import TestClient

from detector.inference import Predictor, attribution
from detector.model import export
from detector.web.api import create_app
from tests.conftest import draw
from tests.sample_files import bomb

MODEL = export.SHIPPED / "compact.h5"
HOSTILE = "<img src=x onerror=alert(1)> {{this}} ${alert(2)} =1+1.png"


@pytest.fixture(autouse=True)
def coarse_heat_maps(monkeypatch):
    """Make heat maps from few masked images: what they show is tested with detector.inference.attribution."""
    monkeypatch.setattr(attribution, "SMALL_PASSES", 32)


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
    (folder / "bomb.png").write_bytes(bomb(8_000, 8_000))
    return folder
