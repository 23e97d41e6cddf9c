import gzip
import json
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from detector.provenance import read
from detector.provenance.fields import EXIF
from tests.sample_files import (
    CAMERA,
    GPS,
    KINDS,
    MEGABYTE,
    PARAMETERS,
    PLACES,
    bare_exif,
    drawn,
    encoded,
    exif,
    harmless,
    jpeg,
    png,
    with_text,
    xmp,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", PLACES)
def test_source_type_in_xmp(kind, body):
    data = xmp(body)
    if kind == "PNG":
        file = png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data))
    elif kind == "GIF":
        magic = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
        file = drawn("GIF")
        palette = 13 + (3 << (file[10] & 7) + 1)
        file = file[:palette] + b"!\xff\x0bXMP DataXMP" + data + magic + file[palette:]
    elif kind == "TIFF":
        file = drawn("TIFF", tiffinfo={700: data})
    else:
        file = drawn(kind, xmp=data)
    found = read(file)
    assert found["digital_source_type"] == {
        "term": "trainedAlgorithmicMedia",
        "meaning": "created by a trained model",
        "source": "XMP",
    }
    assert (found["says"], found["signed"], found["notes"]) == ("made by AI", False, [])
    assert any("created by a trained model" in line for line in harmless(found))


@pytest.mark.parametrize("stray", [
    b"", b"\0\0", b"\x12\x34\x56", b"\xff\xff\xff", b"\xff\0", b"\xff\xd0", b"\xff\x01", b"\xff\xd8", b"\0" * 5000 + b"\xff\xff",
])  # fmt: skip
def test_stray_bytes_between_the_segments_of_a_jpeg(stray):
    plain = drawn("JPEG")
    segment = jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(PLACES[0])))[2 : 2 - len(plain)]
    found = read(plain[:20] + stray + segment + plain[20:])
    assert (found["says"], found["notes"]) == ("made by AI", [])


def hide(text, signature, compressed=False, rows=130, columns=60):
    """Return a PNG with a text in the lowest bits of its pixels, column by column."""
    data = gzip.compress(text) if compressed else text
    bits = np.unpackbits(np.frombuffer(signature + (8 * len(data)).to_bytes(4, "big") + data, np.uint8))
    pixels = np.random.default_rng(7).integers(0, 256, (columns, rows, 4), np.uint8)
    pixels[..., 3] = 255
    places = pixels[..., :3] if b"rgb" in signature else pixels[..., 3:]
    flat = places.reshape(-1)
    flat[: len(bits)] = flat[: len(bits)] & 0xFE | bits
    places[:] = flat.reshape(places.shape)
    return encoded(pixels.transpose(1, 0, 2))


NOVELAI = json.dumps(
    {"Software": "NovelAI", "Comment": json.dumps({"prompt": "a lighthouse at dawn", "seed": 1703765458})}
).encode()


@pytest.mark.parametrize(("text", "signature", "compressed", "kind"), [
    (NOVELAI, b"stealth_pngcomp", True, "NovelAI"),
    (PARAMETERS.encode(), b"stealth_pnginfo", False, "Stable Diffusion web UI"),
    (PARAMETERS.encode(), b"stealth_rgbinfo", False, "Stable Diffusion web UI"),
    (NOVELAI, b"stealth_rgbcomp", True, "NovelAI"),
])  # fmt: skip
def test_text_hidden_in_the_pixels(text, signature, compressed, kind):
    (entry,) = read(hide(text, signature, compressed))["generator"]
    assert (entry["kind"], entry["seed"]) == (kind, "1703765458") and entry["prompt"].startswith("a lighthouse at dawn")


def test_damaged_text_hidden_in_the_pixels():
    whole = hide(NOVELAI, b"stealth_pngcomp", True)
    for data in (
        hide(b"no gzip", b"stealth_pngcomp"),
        hide(NOVELAI, b"stealth_pngtext"),
        hide(NOVELAI, b"stealth_pngcomp", rows=119),
    ):
        found = read(data)
        assert found["generator"] == [] and found["says"] == "nothing"
        harmless(found)
    for end in range(33, len(whole), len(whole) // 20):
        harmless(read(whole[:end]))
    bomb = hide(b"A" * 30 * MEGABYTE, b"stealth_pngcomp", True, rows=700, columns=400)
    assert any("of a compressed text were read" in note for note in read(bomb)["notes"])


def test_camera_in_imagemagicks_profile():
    block = b"Exif\0\0" + exif({0x010F: "NIKON"}).removeprefix(b"Exif\0\0")
    profile = b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"
    assert read(png((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))))["camera"]["make"] == "NIKON"


BOMB = '<!DOCTYPE a [<!ENTITY x0 "lol">' + "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 10)) + "]><a>&x9;</a>"


def xmp_chunk(text):
    return png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode()))


FAR = [(0x010F, 2, 0xFFFFFFFF, 0xFFFFFFFF), (0x829A, 5, 1, 0xFFFFFF00), (0x8769, 4, 1, 0xFFFFFFF0), (0x9286, 7, 0xFFFFFF, 0)]
CIRCLE = {"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "negative": [[], {}]}}}
ODD = [(tag, 1 + i % 13, 3, 20) for i, tag in enumerate([*EXIF] * 13)]
FULL = (b"tEXt", b"a\0" + b"x" * (MEGABYTE - 2))


def compressed_bomb():
    return zlib.compress(b"A" * (40 * MEGABYTE), 1)


HOSTILE = {  # name: (how to make it, part of the note)
    "zTXt bomb": (lambda: png((b"zTXt", b"parameters\0\0" + compressed_bomb())), "of a compressed text were read"),
    "iTXt bomb": (lambda: png((b"iTXt", b"parameters\0\1\0\0\0" + compressed_bomb())), "of a compressed text were read"),
    "a bomb where the limit ends": (
        lambda: png(*[FULL] * 15, (b"tEXt", FULL[1][:-90_000]), (b"zTXt", b"b\0\0" + compressed_bomb())),
        "bytes of metadata; the rest was not read",
    ),
    "40 MB of text": (lambda: png((b"tEXt", b"parameters\0" + b"A" * (40 * MEGABYTE))), "of a piece of metadata were read"),
    "20 MB of EXIF": (lambda: jpeg(*[(0xE1, b"Exif\0\0MM\0*" + b"x" * 65000)] * 320), "bytes of metadata; the rest was not read"),
    "tiny segments": (lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * MEGABYTE, "damaged or cut off"),
    "a segment of no length": (lambda: b"\xff\xd8\xff\xe1\0\0" + bytes(10 * MEGABYTE), "damaged"),
    "tiny chunks": (lambda: png()[:33] + b"\0\0\0\0aaAA\0\0\0\0" * (1 << 18), "cut off"),
    "broken JSON": (lambda: with_text(prompt='{"1": {"class_type": "KSampler"', Software="NovelAI", Comment="{"), ""),
    "deep JSON": (lambda: with_text(prompt='{"a":' + "[" * 900_000), ""),
    "an endless number": (lambda: with_text(invokeai_metadata='{"seed":' + "9" * 900_000 + "}"), ""),
    "not a number": (lambda: with_text(invokeai_metadata='{"seed": NaN, "steps": Infinity}'), ""),
    "a circle": (lambda: with_text(prompt=CIRCLE), ""),
    "an entity bomb": (lambda: xmp_chunk(BOMB), "document type"),
    "an entity bomb in UTF-16": (
        lambda: png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + BOMB.encode("utf-16"))), "document type"
    ),
    "deep XMP": (lambda: xmp_chunk("<a>" * 300_000), "nested too deeply"),
    "XMP that is not XML": (lambda: drawn("JPEG", xmp=b"\xff\xfe\0<"), "XMP read only in part"),
    "EXIF that points afar": (lambda: jpeg((0xE1, b"Exif\0\0" + bare_exif(FAR))), ""),
    "EXIF in a circle": (lambda: jpeg((0xE1, b"Exif\0\0" + bare_exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]))), ""),
    "EXIF of all types": (lambda: png((b"eXIf", bare_exif(ODD, b"A" * 99))), ""),
    "a slow pattern": (lambda: with_text(parameters="\n        " * 30_000 + "Steps: 1, Seed: " + "a b " * 9000), ""),
    "no image": (lambda: b"MZ" + bytes(1000), "not an image"),
    "nothing at all": (lambda: b"", "not an image"),
    "a manifest of zeros": (lambda: png((b"caBX", bytes(1000))), "C2PA manifest"),
    "a manifest without end": (lambda: png((b"caBX", bytes(40 * MEGABYTE))), "too large"),
    "AVIF without an image": (lambda: b"\0\0\0\x18ftypavif" + bytes(12) + b"\0\0\0\x08free" * 100_000, "AVIF"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_cost_little_and_are_noted(name):
    make, note = HOSTILE[name]
    data = make()
    tracemalloc.start()
    before = time.process_time()
    found = read(data)
    took, peak = time.process_time() - before, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 3 and peak < 64 << 20  # seconds (under tracemalloc, several times as many as without), bytes
    harmless(found)
    assert note in " ".join(found["notes"]) and (note or not found["notes"])


def test_a_cut_off_animation_is_a_note():
    frames = [Image.new("RGB", (16, 16), (80 * i, 90, 30)) for i in range(3)]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    for cut in (data[: len(data) * 3 // 4], data[: data.index(b"fdAT") - 4], data[:-12]):
        found = read(cut)
        assert found["says"] == "nothing" and [note.split(",")[0] for note in found["notes"]] == ["the PNG is cut off"]


def test_files_cut_off_anywhere():
    camera = exif({0x010F: "NIKON"}, CAMERA, GPS)
    whole = [with_text(parameters=PARAMETERS), drawn("JPEG", exif=camera, xmp=xmp(PLACES[0])), drawn("WEBP", xmp=xmp(PLACES[0]))]
    for data in [*whole, drawn("GIF", comment=b"x"), drawn("TIFF", exif=camera)]:
        for end in range(0, len(data), 5):
            harmless(read(data[:end]))
