import io

import pytest
from PIL import Image, TiffImagePlugin

from detector.provenance import fields, read
from tests.sample_files import TRAINED, bare_exif, drawn, harmless, jpeg, png, xmp


@pytest.mark.parametrize(("term", "says"), [
    ("compositeWithTrainedAlgorithmicMedia", "edited"), ("digitalCapture", "camera"), ("screenCapture", "nothing"),
    ("humanEdits", "edited"),
])  # fmt: skip
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


def test_iptc_that_points_behind_its_end():
    assert fields.read_iptc(b"\x1c\x02\x6e\x00\x03abc\x1c\x02\x41\xff\xff") == {(2, 110): b"abc"}
    assert fields.read_iptc(b"\x1c\x02\x6e\x00\x09abc") == {(2, 110): b"abc"} and fields.read_iptc(b"") == {}


def test_iptc_that_is_declared_as_32_bit_numbers():
    tags, file = TiffImagePlugin.ImageFileDirectory_v2(), io.BytesIO()
    tags.tagtype[0x83BB], tags[0x83BB] = 7, b"\x1c\x02\x6e\x00\x13Made with Google AI"
    Image.new("RGB", (8, 8)).save(file, "TIFF", tiffinfo=tags)
    undefined, numbers = b"\xbb\x83\7\0\x18\0\0\0", b"\xbb\x83\4\0\6\0\0\0"  # tag, type, count
    assert undefined in file.getvalue() and read(file.getvalue().replace(undefined, numbers))["says"] == "made by AI"
