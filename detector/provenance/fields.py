"""Parsers of EXIF, IPTC and XMP, and IPTC's vocabulary of source types.

Nothing read here is trusted: each parser takes the properties it knows by name, up to LIMIT bytes of each, and ignores the rest.
"""

import io
import math
import re
import struct
from collections.abc import Callable
from xml.etree import ElementTree

from detector.console import printable
from detector.images.exif import read_tags

LIMIT = 1 << 20  # bytes of one value
CUT = 200  # characters of a line
EXIF = {
    0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software", 0x013B: "Artist", 0x829A: "ExposureTime",
    0x829D: "FNumber", 0x8827: "ISO", 0x9003: "DateTimeOriginal", 0x920A: "FocalLength", 0x9286: "UserComment",
    0x9C9C: "XPComment", 0xA434: "LensModel",
}  # fmt: skip
EMBEDDED = {0x02BC: "xmp", 0x83BB: "iptc", 0xCD41: "c2pa"}  # other metadata in the tags of a TIFF
EXIF_IFD, GPS_IFD, LATITUDE = 0x8769, 0x8825, 2
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = {
    "DigitalSourceType", "digitalsourcetype", "CreatorTool", "Software", "Credit", "softwareAgent", "action", "AISystemUsed",
    "AISystemVersionUsed", "AIPromptInformation", "AIPromptWriterName", "AIGC", "UserComment", "description", "provenance", "Make",
    "Model",
}  # fmt: skip
OTHERS = {"Pantry", "Ingredients", "DerivedFrom", "ManagedFrom"}  # XMP properties that describe other images
# IPTC's vocabulary (cv.iptc.org/newscodes/digitalsourcetype): what a term says about an image, and its meaning.
SOURCE_TYPES = {
    "trainedAlgorithmicMedia": ("made by AI", "created by a trained model"),
    "trainedAlgorithmicData": ("made by AI", "created by a trained model"),
    "compositeWithTrainedAlgorithmicMedia": ("edited", "partly made or altered by a trained model"),
    "compositeSynthetic": ("edited", "composed of several parts, some of them synthetic"),
    "algorithmicallyEnhanced": ("edited", "altered by an algorithm, without a generative model"),
    "humanEdits": ("edited", "edited by a person, without generative tools"),
    "minorHumanEdits": ("edited", "with minor edits by a person"),
    "composite": ("edited", "composed of several parts"),
    "compositeCapture": ("edited", "composed of several captures"),
    "digitalCapture": ("camera", "captured by a digital camera"),
    "computationalCapture": ("camera", "several frames captured by a digital camera, merged without generative AI"),
    "negativeFilm": ("camera", "digitised from a negative on film"),
    "positiveFilm": ("camera", "digitised from a positive on film"),
    "print": ("camera", "digitised from a print"),
    "algorithmicMedia": ("nothing", "created by an algorithm alone, without training data"),
    "dataDrivenMedia": ("nothing", "a visualisation of data"),
    "digitalArt": ("nothing", "drawn with digital tools"),
    "digitalCreation": ("nothing", "made by a person with digital tools, not generated"),
    "screenCapture": ("nothing", "a screenshot"),
    "softwareImage": ("nothing", "created by software"),
    "virtualRecording": ("nothing", "recorded in a virtual environment"),
}
AI_TERMS = {term for term, (says, _) in SOURCE_TYPES.items() if says == "made by AI"}
PARTLY_AI_TERMS = {"compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"}


def source_type(value: object, source: str) -> dict | None:
    """Return {term, meaning, source} of a term of IPTC's vocabulary, or of a URL that ends with it; None for other values."""
    term = re.split(r"[/:#]", str(value or "").strip())[-1]
    known = {name.casefold(): name for name in SOURCE_TYPES}.get(term.casefold())
    return {"term": known, "meaning": SOURCE_TYPES[known][1], "source": source} if known else None


def line_of(value: object, limit: int = CUT) -> str | None:
    """Return a value as one line without control characters, cut to `limit`; None if nothing is left."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bytes):
        value = decoded(value[: 4 * limit])
    words = " ".join(str(value)[: 4 * limit].split())
    line = printable(words[: limit + 1])
    return (f"{line[: limit - 1]}…" if len(line) > limit else line) or None


def reason(error: Exception) -> str | None:
    """Return the message of an exception as one line."""
    if isinstance(error, OSError) and error.strerror:
        return line_of(error.strerror)
    return line_of(re.sub(r" <[^>]* object at 0x\w+>", "", str(error)) or type(error).__name__)


def decoded(data: bytes) -> str:
    """Decode text of unknown encoding: UTF-8 if it is valid, else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and len(data) >= 4 * CUT  # cut within its last character
        return data[: error.start].decode("utf-8") if cut else data.decode("latin-1")


def inside(value, *keys):
    """Return value[key][key] …, or None if one of the keys is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def read_exif(content: bytes) -> dict:
    """Read EXIF.

    Args:
        content: bytes that begin with a TIFF header.

    Returns:
        {name: value} of the tags in EXIF: text (str), the first number of numbers (int or float), or bytes; of the tags in EMBEDDED
        as bytes; and `gps`, True if there is a latitude.

    Raises:
        ValueError: the tags name more data than there is.
    """
    tags = read_tags(content)
    inner = {ifd: read_tags(content, tags[ifd], ifd) for ifd in (EXIF_IFD, GPS_IFD) if isinstance(tags.get(ifd), int)}
    tags |= inner.get(EXIF_IFD, {})
    found = {name: _exif_value(tags[tag]) for tag, name in EXIF.items() if tag in tags}
    found |= {name: tags[tag] for tag, name in EMBEDDED.items() if tag in tags}
    if GPS_IFD in inner:
        found["gps"] = LATITUDE in inner[GPS_IFD]
    return {name: value for name, value in found.items() if value is not None}


def _exif_value(value):
    if isinstance(value, str):  # Pillow decodes text as Latin-1
        return decoded(value[: 4 * LIMIT].encode("latin-1", "replace").split(b"\0")[0]).strip()
    if isinstance(value, bytes):
        return value[:LIMIT]
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        number = float(first)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (first if isinstance(first, int) else number) if math.isfinite(number) else None


def exif_text(values: dict, name: str) -> str | None:
    """Return the text of a tag that `read_exif` found, or None.

    UserComment begins with eight bytes that name its encoding. Writers disagree on the byte order of UTF-16, and some write UTF-8
    although they name UTF-16.
    """
    data = values.get(name)
    if not isinstance(data, bytes):
        return data if isinstance(data, str) else None
    if name == "XPComment":
        return data.decode("utf-16-le", "replace")
    code, text = data[:8], data[8:]
    if code.startswith(b"UNICODE"):
        return _decoded_utf_16(text).strip("\0\ufeff")
    return decoded((text if code in (b"ASCII\0\0\0", bytes(8)) else data).rstrip(b"\0"))


def _decoded_utf_16(data):
    """Decode UTF-16 of either byte order, or UTF-8.

    Text in one alphabet repeats one of the two bytes of its characters: zero in ASCII, the page in other alphabets. Bytes that are
    valid UTF-8 and hold no zero are not UTF-16: not even its spaces and line ends would be free of zeros.
    """
    data = data.rstrip(b"\0") if 0 not in data.rstrip(b"\0") else data
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) // 2 * 2].decode("utf-16", "replace")
    if 0 not in data:
        return decoded(data)
    zeros = data[0::2].count(0), data[1::2].count(0)
    return data[: len(data) // 2 * 2].decode("utf-16-le" if zeros[1] > zeros[0] else "utf-16-be", "replace")


def read_iptc(data: bytes) -> dict[tuple[int, int], bytes]:
    """Return {(record, dataset): bytes} of IPTC-IIM, alone or in Photoshop's image resources."""
    found = {}
    place = data.find(b"\x1c\x02")
    while place >= 0 and len(data) - place >= 5 and data[place] == 0x1C and len(found) < 100:
        record, dataset, size = struct.unpack(">BBH", data[place + 1 : place + 5])
        if size & 0x8000:
            break
        found.setdefault((record, dataset), data[place + 5 : place + 5 + size])
        place += 5 + size
    return found


def read_xmp(data: bytes, note: Callable[[str], None]) -> dict[str, list[str]]:
    """Return {local name: [values]} of the properties in XMP; calls `note` with a line on what is wrong with it."""
    found, path = {}, []  # path: local names of the open elements; RDF's own count as their parent

    def add(name, value):
        if name in XMP and value.strip() and not OTHERS & {name, *path} and len(found.setdefault(name, [])) < 20:
            found[name].append(value.strip()[: LIMIT // 4])

    try:
        # Entities can make XML grow without bound or read other files; they need a document type.
        if b"<!DOCTYPE" in data.replace(b"\0", b""):  # in UTF-16 too
            raise ValueError("it declares a document type, which XMP must not have")
        for event, element in ElementTree.iterparse(io.BytesIO(data.strip(b"\0 \r\n\t")), ("start", "end")):
            if event == "end":
                add(path.pop(), element.text or "")
                element.clear()
                continue
            if len(path) >= 50:
                raise ValueError("it is nested too deeply")
            space, _, local = element.tag.rpartition("}")
            path.append(path[-1] if space == RDF and path else local)
            for key, value in element.items():
                space, _, local = key.rpartition("}")
                add(path[-1] if space == RDF and local == "resource" else local, value)
    except (ElementTree.ParseError, ValueError) as error:
        note(f"XMP read only in part: {reason(error)}")
    return found
