"""What stands in a piece of metadata: EXIF, IPTC and XMP, from bytes to named values, and IPTC's terms for where images come from.

Nothing read here is trusted: every reader takes what it knows by name, up to LIMIT bytes of it, and passes over the rest.
"""

import io
import re
import struct
from xml.etree import ElementTree

from detector.console import printable

LIMIT = 1 << 20  # bytes of one value
CUT = 200  # characters of a line
EXIF = {
    0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software", 0x02BC: "xmp", 0x829A: "ExposureTime",
    0x829D: "FNumber", 0x83BB: "iptc", 0x8769: "exif", 0x8825: "gps", 0x8827: "ISO", 0x9003: "DateTimeOriginal",
    0x920A: "FocalLength", 0x9286: "UserComment", 0x9C9C: "XPComment", 0xA434: "LensModel", 0xCD41: "c2pa",
}  # fmt: skip
VALUES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 7: "B", 10: "ii", 13: "I"}  # by EXIF's type, as struct names them
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = {
    "DigitalSourceType", "digitalsourcetype", "CreatorTool", "Software", "Credit", "softwareAgent", "action", "AISystemUsed",
    "AISystemVersionUsed", "AIPromptInformation", "UserComment", "description", "provenance", "Make", "Model",
}  # fmt: skip
OTHERS = {"Pantry", "Ingredients", "DerivedFrom", "ManagedFrom"}  # of XMP: what stands in them is of other images
# IPTC's vocabulary (cv.iptc.org/newscodes/digitalsourcetype) and what a term says of an image.
SOURCE_TYPES = {
    "trainedAlgorithmicMedia": ("made by AI", "created by a trained model"),
    "trainedAlgorithmicData": ("made by AI", "created by a trained model"),
    "compositeWithTrainedAlgorithmicMedia": ("edited", "partly made or altered by a trained model, as by inpainting"),
    "compositeSynthetic": ("edited", "composed of parts of which some are synthetic"),
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
    "dataDrivenMedia": ("nothing", "a picture of data"),
    "digitalArt": ("nothing", "drawn with digital tools"),
    "digitalCreation": ("nothing", "made by a person with digital tools, not generated"),
    "screenCapture": ("nothing", "a capture of a screen"),
    "softwareImage": ("nothing", "created by software"),
    "virtualRecording": ("nothing", "recorded in a virtual place"),
}
AI_TERMS = {term for term, (says, _) in SOURCE_TYPES.items() if says == "made by AI"}
PARTLY_AI_TERMS = {"compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"}


def source_type(value, source):
    """Return a term of IPTC's vocabulary with its meaning, {term, meaning, source}; None for what is no such term."""
    term = re.split(r"[/:#]", str(value or "").strip())[-1]
    known = {name.casefold(): name for name in SOURCE_TYPES}.get(term.casefold())
    return {"term": known, "meaning": SOURCE_TYPES[known][1], "source": source} if known else None


def line_of(value, limit=CUT):
    """Return a value as one line without control characters, cut; None where nothing is left."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bytes):
        value = decoded(value[: 4 * limit])
    words = " ".join(str(value)[: 4 * limit].split())
    line = printable(words[: limit + 1])
    return (f"{line[: limit - 1]}…" if len(line) > limit else line) or None


def reason(error):
    """Return what an exception says, as one line."""
    return line_of(error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__)


def decoded(data):
    """Decode text whose encoding is not told: UTF-8 where it is, else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and len(data) >= 4 * CUT  # within its last character
        return data[: error.start].decode("utf-8") if cut else data.decode("latin-1")


def inside(value, *keys):
    """Return value[key][key] …, or None where one of them is not there."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def read_exif(file):
    """Return {name: value} of the tags in EXIF, from a file that begins with a TIFF header; `gps` is True where it has a latitude.

    Pillow's reader loads every tag, and 65,535 of them may name the same megabytes; this one loads the few that it knows.
    """
    file.seek(0)
    head = file.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return {}
    facts = _directory(file, struct.unpack(order + "I", head[4:])[0], order, EXIF)
    if isinstance(facts.get("exif"), int):
        facts = _directory(file, facts["exif"], order, EXIF) | facts
    if isinstance(facts.get("gps"), int):
        facts["gps"] = bool(_directory(file, facts["gps"], order, {2: "latitude"}))
    return facts


def _directory(file, offset, order, names):
    file.seek(offset)
    count = file.read(2)
    entries = file.read(12 * min(struct.unpack(order + "H", count)[0], 1000)) if len(count) == 2 else b""
    facts = {}
    for i in range(0, len(entries) - 11, 12):
        tag, kind, number, place = struct.unpack(order + "HHII", entries[i : i + 12])
        name, size = names.get(tag), struct.calcsize("=" + VALUES.get(kind, "")) * number
        if name is None or name in facts or not size:
            continue
        data = entries[i + 8 : i + 8 + size]
        if size > 4 and name != "c2pa":
            file.seek(place)
            data = file.read(min(size, LIMIT))
        # XMP and IPTC may be of whatever type; of a manifest only the size is wanted.
        facts[name] = size if name == "c2pa" else data if name in ("xmp", "iptc") else _exif_value(data, kind, order)
    return {name: value for name, value in facts.items() if value is not None}


def _exif_value(data, kind, order):
    """Return text for ASCII, the first number of numbers, bytes for the rest."""
    if kind == 2:
        return decoded(data.split(b"\0")[0]).strip()
    if kind in (1, 7):
        return data
    if len(data) < struct.calcsize("=" + VALUES[kind]):
        return None
    number, below = (*struct.unpack_from(order + VALUES[kind], data), 1)[:2]
    return None if below == 0 else number / below if kind in (5, 10) else number


def exif_text(facts, name):
    """Return the text of a tag that `read_exif` found, or None.

    Eight bytes in front of UserComment name its encoding; in UTF-16 writers disagree on the order of the bytes.
    """
    data = facts.get(name)
    if not isinstance(data, bytes):
        return data if isinstance(data, str) else None
    if name == "XPComment":
        return data.decode("utf-16-le", "replace")
    code, text = data[:8], data[8:]
    if code.startswith(b"UNICODE"):
        zeros = text[0::2].count(0), text[1::2].count(0)
        return text[: len(text) // 2 * 2].decode("utf-16-le" if zeros[1] > zeros[0] else "utf-16-be", "replace").rstrip("\0")
    return decoded((text if code in (b"ASCII\0\0\0", bytes(8)) else data).rstrip(b"\0"))


def read_iptc(data):
    """Return {(record, dataset): bytes} of IPTC-IIM, bare or in Photoshop's image resources."""
    facts = {}
    place = data.find(b"\x1c\x02")
    while place >= 0 and len(data) - place >= 5 and data[place] == 0x1C and len(facts) < 100:
        record, dataset, size = struct.unpack(">BBH", data[place + 1 : place + 5])
        if size & 0x8000:
            break
        facts.setdefault((record, dataset), data[place + 5 : place + 5 + size])
        place += 5 + size
    return facts


def read_xmp(data, note):
    """Return {local name: [values]} of the properties in XMP; what is wrong with it goes to `note`."""
    facts, path = {}, []  # path: local names of the open elements; those of RDF itself count as their parent

    def add(name, value):
        if name in XMP and value.strip() and not OTHERS & {name, *path} and len(facts.setdefault(name, [])) < 20:
            facts[name].append(value.strip()[: LIMIT // 4])

    try:
        # Entities are how XML grows without bound or reads other files; they need a document type.
        if b"<!DOCTYPE" in data.replace(b"\0", b""):  # in UTF-16 too
            raise ValueError("it declares a document type, which XMP does not have")
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
        note(f"the XMP could not be read to its end: {reason(error)}")
    return facts
