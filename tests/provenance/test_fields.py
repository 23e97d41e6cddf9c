import io
import struct

import pytest

from detector.provenance import fields, read
from tests.saying import MEGABYTE, TRAINED, bare_exif, drawn, harmless, jpeg, png, xmp

OTHERS = {
    "compositeWithTrainedAlgorithmicMedia": "edited",
    "digitalCapture": "camera",
    "screenCapture": "nothing",
    "humanEdits": "edited",
}


@pytest.mark.parametrize(("term", "says"), OTHERS.items())
def test_other_source_types(term, says):
    found = read(drawn("JPEG", xmp=xmp("", f'any:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{term}"')))
    assert (found["digital_source_type"]["term"], found["says"]) == (term, says)


def test_what_xmp_tells_of_other_images_is_not_told_of_this_one():
    pantry = (
        f'<xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description any:DigitalSourceType="{TRAINED}"/></rdf:li></rdf:Bag></xmpMM:Pantry>'
    )
    assert read(drawn("JPEG", xmp=xmp(pantry)))["says"] == "nothing"


def test_invalid_utf_8():
    found = read(png((b"tEXt", b"parameters\0\xff\xfe caf\xe9\nSteps: 20, Sampler: Euler\x9b31m, Seed: 1")))
    assert found["generator"][0]["prompt"] == "ÿþ café"
    harmless(found)
    model = (0x0110, 2, 4, int.from_bytes(b"X\xe9\0\0", "little"))
    assert read(jpeg((0xE1, b"Exif\0\0" + bare_exif([model]))))["camera"]["model"] == "Xé"


@pytest.mark.parametrize(("kind", "number", "place", "value"), [
    (3, 1, 6, 6), (4, 1, 6, 6), (2, 2, ord("A"), "A"), (5, 1, 26, 1.5), (5, 1, 34, None), (10, 1, 26, 1.5),
    (12, 1, 6, None),  # a type that is not read
    (4, 1 << 30, 1 << 20, None),  # a value behind the end of the file
])  # fmt: skip
def test_a_tag_of_each_type(kind, number, place, value):
    data = bare_exif([(0x8827, kind, number, place)], struct.pack("<4I", 3, 2, 1, 0))
    assert fields.read_exif(io.BytesIO(data)).get("ISO") == value


def test_the_first_of_a_tag_counts_and_its_value_is_read_once():
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size=-1):
            data = super().read(size)
            self.taken += len(data)
            return data

    file = Counting(bare_exif([(0x010F, 2, MEGABYTE, 20)] * 1000, bytes(MEGABYTE)))
    assert "Make" in fields.read_exif(file) and file.taken < 2 * MEGABYTE


def test_iptc_that_points_behind_its_end():
    assert fields.read_iptc(b"\x1c\x02\x6e\x00\x03abc\x1c\x02\x41\xff\xff") == {(2, 110): b"abc"}
    assert fields.read_iptc(b"\x1c\x02\x6e\x00\x09abc") == {(2, 110): b"abc"} and fields.read_iptc(b"") == {}
