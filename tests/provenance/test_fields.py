import pytest

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
