import pytest

from tests import tiny


@pytest.fixture(autouse=True, scope="package")
def tiny_networks():
    with tiny.registered():
        yield
