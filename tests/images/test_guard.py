import errno

import pytest

from detector.console import InputError
from detector.images.guard import one_file

OF_THE_FILE = [
    ZeroDivisionError("division\nby zero"), KeyError("x"), SystemError(), OSError("broken"),
    IsADirectoryError(errno.EISDIR, "folder"),
    PermissionError(errno.EACCES, "Permission denied", "a.png"),
]  # fmt: skip


@pytest.mark.parametrize("error", OF_THE_FILE)
def test_what_one_file_raises_becomes_one_line_with_its_name(error):
    with pytest.raises(InputError) as raised, one_file("a.png"):
        raise error
    assert str(raised.value).startswith("a.png: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "full"), InputError("a.png: x")])
def test_what_does_not_concern_the_file_alone_passes(error):
    with pytest.raises(type(error)) as raised, one_file("b.png"):
        raise error
    assert raised.value is error
