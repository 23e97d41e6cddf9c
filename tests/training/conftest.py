import pytest

from detector.model.architectures import ARCHITECTURES
from tests import tiny


@pytest.fixture(autouse=True, scope="package")
def tiny_networks():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tiny", "tiny_backbone"):
            patch.setitem(ARCHITECTURES, name, None)
        tiny.register()
        yield
