import argparse
import subprocess
import sys
from fractions import Fraction

import pytest

from detector import console
from detector.console import fraction, non_negative_int, number_type, positive_float, positive_int, seed
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (positive_int, "1", 1),
        (non_negative_int, "0", 0),
        (positive_float, "1e-9", 1e-9),
        (fraction, "1", 1.0),
        (seed, "4294967295", (1 << 32) - 1),
        (number_type(at_least=0, below=0.5), "0.499", 0.499),
        (number_type(Fraction, at_least=0), "1/3", Fraction(1, 3)),
    ],
)
def test_numbers_within_limits(parse, text, value):
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (positive_int, "0", "a whole number (at least 1)"),
        (positive_int, "1.5", "a whole number (at least 1)"),
        (positive_int, "9" * 5000, "a whole number (at least 1)"),
        (positive_float, "0", "a number (above 0)"),
        (positive_float, "inf", "a number (above 0)"),
        (fraction, "nan", "a number (at least 0, at most 1)"),
        (seed, "4294967296", "a whole number (at least 0, at most 4294967295)"),
        (number_type(at_least=0, below=0.5), "0.5", "a number (at least 0, below 0.5)"),
        (number_type(above=0, at_most=2), "0", "a number (above 0, at most 2)"),
        (number_type(Fraction, at_least=0), "1/0", "a number (at least 0)"),
    ],
)
def test_numbers_outside(parse, text, expected):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert str(error.value) == f"expected {expected}, found {text}"


def test_sizes_and_reasons_in_words():
    assert [console.show_size(size) for size in (12, 1500, 10**12)] == ["12 bytes", "1.5 kB", "1.0 TB"]
    assert console.reason_line("skipped", ["a"]) == "skipped: 1 file (a)"
    assert console.reason_line("skipped", ["a\n", "b", "c", "d"], "image") == "skipped: 4 images (a\\n, b, c, ...)"


def test_reasons_are_counted_without_their_details():
    reason = "expected a whole image, found a damaged one (image file is truncated (3 bytes)); get the file again"
    assert console.short_reason(reason) == console.short_reason("found a damaged one") == "found a damaged one"


def test_stages_that_move_files_start_without_the_heavy_libraries():
    stages = "data_audit, data_augmentation, data_deleter, data_merger, data_split, data_unzipper, data_zipper"
    heavy = {"numpy", "PIL", "cv2", "sklearn", "tqdm", "tensorflow", "keras", "kagglehub"}
    code = f"import sys, {stages}; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
