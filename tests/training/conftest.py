import pytest

from detector.model.architectures import ARCHITECTURES
from tests import tiny


@pytest.fixture(autouse=True, scope="package")
def tiny_networks():
    before = dict(ARCHITECTURES)
    tiny.register()
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(before)
