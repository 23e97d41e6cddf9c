"""What an image file says of itself: C2PA manifest, notes of image generators, XMP, IPTC, camera facts. It stands beside the
score and is never mixed into it.

`read(source)` returns a dict that `json.dumps` takes. It never raises on a bad file: what went wrong stands in `notes`. All
texts in it are cut and hold no control characters (a page must escape `<` and `&` still). Its keys, always all there:

    says                 'made by AI' | 'camera' | 'edited' | 'nothing': what all of it comes to
    signed               True where `says` rests on a C2PA manifest with a valid signature (of whom: c2pa's `trusted`), not on
                         what anybody can type
    because              what `says` rests on, in words; None with 'nothing'
    has_c2pa             True where the file holds a C2PA manifest, whether it could be read or not
    c2pa                 None or {signer, issuer, time, generator, digital_source_type, ai_generated (None: not said), ai_edited,
                         position (True: it holds one), signature ('valid' | 'invalid'), trusted, trust_list (True where one was
                         given), actions, edited_after, changed_since_signing, ingredients (their number), problems (in words)}
    generator            list of {kind, prompt, negative_prompt, model, seed, settings (dict), partly (True: it edits with AI),
                         name_only (True: no more than the name of a program)}
    digital_source_type  None or {term, meaning, source ('C2PA' | 'XMP')}: IPTC's vocabulary
    aigc                 None or {label, meaning, producer}: China's label of AI content (GB 45438-2025)
    xmp                  None or {creator_tool, software (list), history (list), credit, ai_system, ai_prompt, manifest_link,
                         digital_source_type (of XMP, whatever the manifest says)}
    camera               None or {make, model, lens, exposure, f_number, iso, focal_length, time, position (True: there is one)}
    software             name of the program that wrote the file, or None
    notes                list of lines: what could not be read, what is missing

Only headers are read (detector.provenance.containers); a manifest is looked at (detector.provenance.c2pa) only where there is one.
Nothing is ever fetched from a network.
"""

import io
import os
import re
from contextlib import contextmanager

from detector.console import plural
from detector.provenance.c2pa import NO_EDITS, read_manifest
from detector.provenance.containers import Metadata
from detector.provenance.fields import SOURCE_TYPES, line_of, reason, source_type
from detector.provenance.generators import CUT_PROMPT, read_generators

KEYS = (
    "says", "signed", "because", "has_c2pa", "c2pa", "generator", "digital_source_type", "aigc", "xmp", "camera", "software",
    "notes",
)  # fmt: skip
CUT_LINE, LINES = 600, 12  # characters, and lines of a description
EDITORS = re.compile(
    r"photoshop|lightroom|\bgimp\b|affinity photo|capture one|paint\.net|paint shop|picasa|snapseed|darktable|rawtherapee|acorn"
    r"|pixelmator|canva\b|luminar|\bdxo\b|photopea|\bkrita\b|acdsee|picsart|facetune|meitu|photoscape|photodirector|imagemagick"
    r"|faststone|irfanview|camera raw|polarr|\bvsco\b|pixlr|fotor\b|photofiltre|zoner",
    re.IGNORECASE,
)
ABSENT = (
    "The file says nothing of where it comes from. That proves nothing: such data is lost when an image is saved again or sent "
    "through a messenger, and easily taken out."
)
POSITION = "holds a position (GPS), not shown here"
TYPED = "What is not signed can be typed or copied into a file by anybody: it is a hint, no evidence."


def read(source, trust_list=None):
    """Return what a file says of itself: the dict of the module's docstring.

    Args:
        source: path, bytes or binary file that can seek (its position is restored).
        trust_list: path of a PEM file with the roots that a C2PA signer must descend from to be `trusted`; c2pa-python brings
            none. The official one is C2PA-TRUST-LIST.pem of github.com/c2pa-org/conformance-public.
    """
    found = dict.fromkeys(KEYS)
    found.update(says="nothing", signed=False, has_c2pa=False, generator=[], notes=[])
    try:
        with _opened(source) as file:
            metadata = Metadata(file, found["notes"])
            found["has_c2pa"] = metadata.manifest > 0
            _interpret(metadata, found)
            if metadata.manifest:
                found["c2pa"] = read_manifest(file, metadata, trust_list)
    except Exception as error:  # whatever a stranger's file brings about, the verdict must not suffer from it
        found["notes"].append(f"the metadata could not be read to the end: {reason(error)}")
    try:
        _conclude(found)
    except Exception as error:
        found["notes"].append(f"the metadata could not be summed up: {reason(error)}")
    return found


@contextmanager
def _opened(source):
    """Yield a binary file that stands at its beginning."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield file
    elif isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    else:
        position = source.tell()
        source.seek(0)
        try:
            yield source
        finally:
            source.seek(position)


def _interpret(metadata, found):
    """Turn metadata into facts: fills `generator`, `digital_source_type`, `xmp`, `camera` and `software`."""
    exif, iptc = metadata.exif, metadata.iptc
    first = {name: values[0] for name, values in metadata.xmp.items() if values}
    programs = dict.fromkeys(metadata.xmp.get("softwareAgent", []) + metadata.xmp.get("Software", []))
    system = " ".join(first[name] for name in ("AISystemUsed", "AISystemVersionUsed") if name in first)
    link = first.get("provenance", "")
    xmp = {
        "creator_tool": line_of(first.get("CreatorTool")),
        "software": [line_of(value) for value in programs][:5],
        "history": [line_of(value, 40) for value in dict.fromkeys(metadata.xmp.get("action", []))][:10],
        "credit": line_of(first.get("Credit") or iptc.get((2, 110))),
        "ai_system": line_of(system),
        "ai_prompt": line_of(first.get("AIPromptInformation"), CUT_PROMPT),
        "manifest_link": line_of(link) if link.startswith(("http://", "https://")) else None,
        "digital_source_type": source_type(first.get("DigitalSourceType") or first.get("digitalsourcetype"), "XMP"),
    }
    found["xmp"] = xmp if any(xmp.values()) else None
    found["camera"] = _camera(exif)
    program = exif.get("Software") or metadata.texts.get("Software") or first.get("CreatorTool") or iptc.get((2, 65))
    found["software"] = line_of(program)
    found["digital_source_type"] = xmp["digital_source_type"]
    makers = [name for name in (found["software"], xmp["creator_tool"]) if name]
    found["generator"] = read_generators(metadata.texts, xmp, makers, [name for name in xmp["software"] if name])


def _camera(exif):
    """Return the camera's facts, or None where neither make nor model is told (or something else stands in their place)."""
    names = [name if isinstance(name, str) else "" for name in (exif.get("Make"), exif.get("Model"))]
    if any(name.lstrip().startswith(("prompt:", "workflow:", "{")) for name in names):
        names = ["", ""]  # ComfyUI keeps its notes there
    make, model = map(line_of, names)
    if not (make or model or exif.get("gps") is True):
        return None
    numbers = ("ExposureTime", "FNumber", "ISO", "FocalLength")
    seconds, f_number, iso, length = (exif[name] if isinstance(exif.get(name), int | float) else None for name in numbers)
    return {
        "make": make,
        "model": model,
        "lens": line_of(exif.get("LensModel")),
        "exposure": None if not seconds else f"1/{round(1 / seconds)} s" if 1e-6 < seconds < 0.4 else f"{seconds:.6g} s",
        "f_number": None if f_number is None else round(f_number, 2),
        "iso": None if iso is None else int(iso),
        "focal_length": None if length is None else f"{length:.6g} mm",
        "time": line_of(exif.get("DateTimeOriginal"), 40),
        "position": exif.get("gps") is True,
    }


def _conclude(found):
    """Fill `says`, `signed` and `because`.

    A valid signature of a trusted signer counts before all that anybody can type. Anybody can make a certificate, too: where
    the signer is not trusted, "made by AI" counts before the rest, since who hides it does not write it down.
    """
    claims = found["c2pa"]
    if claims and claims["digital_source_type"]:
        found["digital_source_type"] = claims["digital_source_type"]
    told = [*_claimed(claims), *_typed(found)]
    if not (claims and claims["trusted"]):
        told.sort(key=lambda one: one[0] != "made by AI")
    if told:
        found["says"], found["because"], found["signed"] = told[0]


def _claimed(claims, valid=True):
    """Yield (says, because, signed) of a C2PA manifest, where its signature is valid or, with valid=False, where it is not."""
    if not claims or (claims["signature"] == "valid") != valid:
        return
    because = f"a C2PA manifest, validly signed, its signer {'' if claims['trusted'] else 'not '}trusted"
    because = because if valid else "a C2PA manifest that is not valid"
    if claims["ai_generated"]:
        yield "made by AI", because, valid
    elif claims["ai_edited"]:
        yield "edited", f"{because}: partly by AI", valid
    elif claims["edited_after"] and any(action not in NO_EDITS for action in claims["actions"]):
        yield "edited", because, valid
    elif claims["ai_generated"] is False:
        yield "camera", because, valid


def _programs(found):
    """Return the names of programs that have had the file in hand."""
    xmp = found.get("xmp") or {}
    return list(dict.fromkeys(name for name in (found.get("software"), xmp.get("creator_tool"), *xmp.get("software", [])) if name))


def _typed(found):
    """Yield (says, because, False) of what is not signed, the strongest first."""
    made = [entry for entry in found["generator"] if not entry["partly"]]
    if made:
        yield "made by AI", f"the notes of {made[0]['kind']}", False
    kind = (found["xmp"] or {}).get("digital_source_type")
    says = SOURCE_TYPES[kind["term"]][0] if kind else "nothing"
    if says == "made by AI":
        yield says, f"IPTC's source type {kind['term']}", False
    yield from _claimed(found["c2pa"], valid=False)
    if found["generator"]:
        yield "edited", f"the notes of {found['generator'][0]['kind']}: partly by AI", False
    if says == "edited":
        yield says, f"IPTC's source type {kind['term']}", False
    if editor := next((name for name in _programs(found) if EDITORS.search(name)), None):
        yield "edited", f"the name of the software: {editor}", False
    camera = found["camera"] or {}
    if says == "camera":
        yield says, f"IPTC's source type {kind['term']}", False
    if camera.get("make") or camera.get("model"):
        yield "camera", "the camera's name in EXIF", False


def summarise(found):
    """Return what `read` found as lines for a person: plain text, each line cut, no angle brackets or control characters.

    `<` and `>` come out as ‹ and ›, so that a line is harmless on a page that forgets to escape it.
    """
    lines = [*_describe_c2pa(found.get("c2pa"))]
    lines += [_describe_generator(entry) for entry in (found.get("generator") or [])[:3]]
    if kind := (found.get("xmp") or {}).get("digital_source_type"):
        lines.append(f"IPTC source type (XMP, not signed): {kind['term']}, that is {kind['meaning']}.")
    lines += _describe_rest(found)
    unsigned = bool(lines) and not (found.get("c2pa") and len(lines) <= 3)
    lines += [f"Note: {note}." for note in (found.get("notes") or [])[:3]]
    if unsigned:
        lines.append(TYPED)
    elif not found.get("has_c2pa"):
        lines.append(ABSENT)
    return [_plain(line) for line in lines[: LINES - 1] + lines[LINES - 1 :][-1:]]


def _plain(line):
    return line_of(line, CUT_LINE).replace("<", "‹").replace(">", "›")


def _describe_c2pa(claims):
    if not claims:
        return
    kind = claims["digital_source_type"]
    edits = [action for action in claims["actions"] if action not in NO_EDITS]
    made = [
        claims["generator"] and f"made with {claims['generator']}",
        kind and f"source type {kind['term']}, that is {kind['meaning']}",
        claims["ai_edited"] and "partly made or altered by AI",
        f"edited ({', '.join(edits)})" if edits else "no edits recorded",
        claims["ingredients"] and plural(claims["ingredients"], "ingredient"),
        claims["position"] and POSITION,
    ]
    yield f"C2PA manifest says: {'; '.join(filter(None, made))}."
    name = ", ".join(name for name in (claims["signer"], claims["issuer"]) if name) or "somebody without a name"
    when = re.sub(r"\.\d+", "", f" at {claims['time']}") if claims["time"] else ""
    if claims["signature"] == "valid":
        yield f"C2PA signature valid: the file is as it was signed{when} by {name}."
    else:
        problems = "; ".join(claims["problems"]) or "no reason given"
        yield f"C2PA signature NOT valid, so the manifest is no evidence (it names as signer: {name}{when}): {problems}."
    if claims["trusted"]:
        yield "C2PA signer is on the trust list: this is evidence."
    elif claims["trust_list"]:
        yield "C2PA signer is not on the trust list. A certificate can bear any name, so it is open who signed."
    else:
        line = "C2PA signer not trusted: no trust list was given (--trust-list), and c2pa-python brings none."
        if claims["signature"] == "valid":
            line += " A certificate can bear any name: it is evidence that the file is as it was signed, not of who signed it."
        yield line


def _describe_generator(entry):
    parts = [entry["kind"] + (" (edited with AI)" if entry["partly"] else "")]
    parts += [f"prompt “{line_of(entry['prompt'])}”"] if entry["prompt"] else []
    parts += [f"{name} {entry[name]}" for name in ("model", "seed") if entry[name]]
    wanted = ("Sampler", "sampler", "sampler_name", "Steps", "steps", "Version", "version")
    parts += [f"{name} {entry['settings'][name]}" for name in wanted if name in entry["settings"]]
    return f"Notes of an image generator (not signed): {', '.join(parts)}."


def _describe_rest(found):
    camera, xmp = found.get("camera"), found.get("xmp") or {}
    if camera:
        told = [camera[name] for name in ("make", "model", "lens", "exposure")]
        told += [camera["f_number"] and f"f/{camera['f_number']:g}", camera["iso"] and f"ISO {camera['iso']}"]
        told += [camera["focal_length"], camera["time"] and f"taken {camera['time']}", camera["position"] and POSITION]
        yield f"Camera (EXIF, not signed): {', '.join(filter(None, told))}."
    rest = {
        "Software (not signed)": ", ".join(_programs(found)[:3]),
        "History (XMP, not signed)": ", ".join(xmp.get("history") or []),
        "Credit (not signed)": xmp.get("credit"),
        "It names a C2PA manifest elsewhere, which is not fetched": xmp.get("manifest_link"),
    }
    yield from (f"{name}: {value}." for name, value in rest.items() if value)
