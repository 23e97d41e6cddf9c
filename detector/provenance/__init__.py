"""Provenance metadata of an image file: C2PA manifest, metadata of image generators, XMP, IPTC, AIGC label, camera data.

It is independent of the detector's score and never changes it. `read(source)` returns a dict that `json.dumps` accepts, and never
raises on a bad file: `notes` say what could not be read. All texts in it are cut and hold no control characters (a page must still
escape `<` and `&`). It always has these keys:

    says                 'made by AI' | 'camera' | 'edited' | 'nothing': the sum of it all
    signed               True if `says` rests on a C2PA manifest with a valid signature (whose: c2pa's `trusted`), not on metadata
                         that anybody can type
    because              what `says` rests on, in words; None with 'nothing'
    has_c2pa             True if the file holds a C2PA manifest, readable or not
    c2pa                 None or {signer, issuer, time, generator, digital_source_type, ai_generated (None: not stated), ai_edited,
                         position (True: it holds one), signature ('valid' | 'invalid'), expired (True:
                         invalid only because the certificate has expired), trusted, trust_list (True: one was used),
                         trust_list_date, identity (None or {names, verified, problem}: CAWG's identity assertion), actions,
                         edited_after, changed_since_signing, ingredients (their number), problems (in words)}
    generator            list of {kind, prompt, negative_prompt, model, seed, settings (dict), partly (True: it edits with AI),
                         name_only (True: nothing but the name of a program)}
    digital_source_type  None or {term, meaning, source ('C2PA' | 'XMP')}: IPTC's vocabulary
    aigc                 None or {label, meaning, producer}: China's label of AI content (GB 45438-2025)
    xmp                  None or {creator_tool, software (list), history (list), credit, ai_system (with its version), ai_prompt,
                         ai_prompt_writer, manifest_link, digital_source_type (that of XMP)}
    camera               None or {make, model, lens, exposure, f_number, iso, focal_length, time, position (True: there is one)}
    software             name of the program that wrote the file, or None
    notes                list of lines: what could not be read, what is missing

`detector.provenance.containers` finds the metadata in a file; `detector.provenance.c2pa` reads a manifest if there is one. Nothing
is fetched from a network.
"""

import os
import re
from typing import BinaryIO

from detector.console import plural
from detector.images.guard import read_source
from detector.provenance.c2pa import NO_EDITS, read_manifest
from detector.provenance.containers import Metadata
from detector.provenance.fields import SOURCE_TYPES, line_of, reason, source_type
from detector.provenance.generators import CUT_PROMPT, is_generator, read_aigc, read_generators

KEYS = (
    "says", "signed", "because", "has_c2pa", "c2pa", "generator", "digital_source_type", "aigc", "xmp", "camera", "software",
    "notes",
)  # fmt: skip
RANKS = ("made by AI", "edited", "camera")  # of what unsigned metadata say
CUT_LINE, LINES = 600, 12  # characters, and lines of a summary
EDITORS = re.compile(
    r"photoshop|lightroom|\bgimp\b|affinity photo|capture one|paint\.net|paint shop|picasa|snapseed|darktable|rawtherapee|acorn"
    r"|pixelmator|canva\b|luminar|\bdxo\b|photopea|\bkrita\b|acdsee|picsart|facetune|meitu|photoscape|photodirector|imagemagick"
    r"|faststone|irfanview|camera raw|polarr|\bvsco\b|pixlr|fotor\b|photofiltre|zoner",
    re.IGNORECASE,
)
ABSENT = "No provenance metadata. This proves nothing: re-saving or sending an image usually strips it."
SYNTHID = "Invisible watermarks such as SynthID (Google, OpenAI) cannot be read offline."
POSITION = "GPS position present, not shown"
UNSIGNED = "Anybody can type or copy unsigned metadata: it is a hint, not evidence."


def read(source: str | os.PathLike | bytes | BinaryIO, trust_list: str | os.PathLike | None = None) -> dict:
    """Return the provenance metadata of a file: the dict of the module's docstring.

    Args:
        source: path, bytes or binary file that can seek (its position is restored).
        trust_list: path of a PEM file with the roots that a C2PA signer must descend from to be `trusted`
            (detector.provenance.trust_list); None trusts no signer.
    """
    found: dict = dict.fromkeys(KEYS) | {"says": "nothing", "signed": False, "has_c2pa": False, "generator": [], "notes": []}
    try:
        content = read_source(source)
        metadata = Metadata(content, found["notes"])
        found["has_c2pa"] = metadata.manifest > 0
        if metadata.manifest:
            with metadata.attempt("the C2PA manifest"):
                found["c2pa"] = read_manifest(content, metadata, trust_list)
        with metadata.attempt("the metadata"):
            _interpret(metadata, found)
    except Exception as error:  # a file that cannot be opened must not cost the verdict
        found["notes"].append(f"the metadata could not be read: {reason(error)}")
    _sum_up(found)
    return found


def _interpret(metadata, found):
    """Fill `generator`, `digital_source_type`, `aigc`, `xmp`, `camera` and `software`."""
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
        "ai_prompt_writer": line_of(first.get("AIPromptWriterName")),
        "manifest_link": line_of(link) if link.startswith(("http://", "https://")) else None,
        "digital_source_type": source_type(first.get("DigitalSourceType") or first.get("digitalsourcetype"), "XMP"),
    }
    found["xmp"] = xmp if any(xmp.values()) else None
    found["digital_source_type"] = xmp["digital_source_type"]
    found["aigc"] = read_aigc(metadata.texts)
    found["camera"] = _camera(exif)
    program = exif.get("Software") or metadata.texts.get("Software") or first.get("CreatorTool") or iptc.get((2, 65))
    found["software"] = line_of(program)
    make = line_of(exif.get("Make")) if isinstance(exif.get("Make"), str) else None  # Ideogram's name is there
    makers = [name for name in (found["software"], xmp["creator_tool"], make) if name]
    found["generator"] = read_generators(metadata.texts, xmp, makers, [name for name in xmp["software"] if name])


def _camera(exif):
    """Return `camera`; None if EXIF names no camera, or something else in its place."""
    names = [name if isinstance(name, str) else "" for name in (exif.get("Make"), exif.get("Model"))]
    if any(name.lstrip().lower().startswith(("prompt:", "workflow:", "{")) or is_generator(name) for name in names):
        names = ["", ""]  # ComfyUI stores its graph there, and Ideogram its name
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


def _sum_up(found):
    """Fill `says`, `signed` and `because`.

    A valid signature of a trusted signer counts before everything that anybody can type. Anybody can make a certificate, too: if
    the signer is not trusted, "made by AI" counts before the rest, since whoever hides it does not write it down.
    """
    claims = found["c2pa"]
    if claims and claims["digital_source_type"]:
        found["digital_source_type"] = claims["digital_source_type"]
    unsigned = [statement for statement in _unsigned_statements(found) if statement[0] in RANKS]
    statements = [*_signed_statements(claims), *sorted(unsigned, key=lambda statement: RANKS.index(statement[0]))]
    if not (claims and claims["trusted"]):
        statements.sort(key=lambda statement: statement[0] != "made by AI")
    if statements:
        found["says"], found["because"], found["signed"] = statements[0]


def _signed_statements(claims, valid=True):
    """Yield (says, because, signed) of a C2PA manifest if its signature is valid or, with valid=False, if it is not."""
    if not claims or (claims["signature"] == "valid") != valid:
        return
    because = f"C2PA manifest, signature valid, signer {'' if claims['trusted'] else 'not '}trusted"
    because = because if valid else "C2PA manifest, signature not valid"
    if claims["ai_generated"]:
        yield "made by AI", because, valid
    elif claims["ai_edited"]:
        yield "edited", f"{because}: partly by AI", valid
    elif claims["edited_after"] and any(action not in NO_EDITS for action in claims["actions"]):
        yield "edited", because, valid
    elif claims["ai_generated"] is False:
        yield "camera", because, valid


def _programs(found):
    """Return the names of the programs that wrote or edited the file."""
    xmp = found["xmp"] or {}
    return list(dict.fromkeys(filter(None, (found["software"], xmp.get("creator_tool"), *xmp.get("software", [])))))


def _unsigned_statements(found):
    """Yield (says, because, False) of what is not signed."""
    for entry in found["generator"]:
        because = f"{'name of a program that generates images:' if entry['name_only'] else 'metadata of'} {entry['kind']}"
        yield ("edited", f"{because}: partly by AI", False) if entry["partly"] else ("made by AI", because, False)
    if kind := (found["xmp"] or {}).get("digital_source_type"):
        yield SOURCE_TYPES[kind["term"]][0], f"IPTC source type {kind['term']}", False
    if found["aigc"] and found["aigc"]["label"] == "1":
        yield "made by AI", "AIGC label", False
    yield from _signed_statements(found["c2pa"], valid=False)
    if editor := next((name for name in _programs(found) if EDITORS.search(name)), None):
        yield "edited", f"name of the software: {editor}", False
    camera = found["camera"] or {}
    if camera.get("make") or camera.get("model"):
        yield "camera", "name of the camera in EXIF", False


def summarise(found: dict) -> list[str]:
    """Return what `read` found as lines for a person: plain text, each line cut, no angle brackets or control characters.

    `<` and `>` become ‹ and ›, so that a line is harmless on a page that forgets to escape it.
    """
    lines = [*_summarise_c2pa(found["c2pa"])]
    signed = len(lines)
    lines += [_summarise_generator(entry) for entry in found["generator"][:3]]
    if kind := (found["xmp"] or {}).get("digital_source_type"):
        lines.append(f"IPTC source type (XMP, not signed): {kind['term']}, that is {kind['meaning']}.")
    lines += _summarise_rest(found)
    last = [UNSIGNED] if len(lines) > signed else [] if found["has_c2pa"] else [ABSENT]
    lines += [f"Note: {note}." for note in found["notes"][:3]]
    last += [SYNTHID] if found["says"] != "made by AI" else []
    lines = [line_of(line, CUT_LINE) for line in lines[: LINES - len(last)] + last]
    return [line.replace("<", "‹").replace(">", "›") for line in lines]


def _summarise_c2pa(claims):
    if not claims:
        return
    kind = claims["digital_source_type"]
    edits = [action for action in claims["actions"] if action not in NO_EDITS]
    parts = [
        claims["generator"] and f"made with {claims['generator']}",
        kind and f"source type {kind['term']}, that is {kind['meaning']}",
        claims["ai_edited"] and "partly made or altered by AI",
        f"edited ({', '.join(edits)})" if edits else "no edits recorded",
        claims["ingredients"] and plural(claims["ingredients"], "ingredient"),
        claims["position"] and POSITION,
    ]
    yield f"C2PA manifest: {'; '.join(filter(None, parts))}."
    name = ", ".join(name for name in (claims["signer"], claims["issuer"]) if name) or "an unnamed signer"
    time = re.sub(r"\.\d+", "", f" at {claims['time']}") if claims["time"] else ""
    valid = claims["signature"] == "valid"
    if valid:
        yield f"C2PA signature valid: the file is unchanged since it was signed by {name}{time}."
    else:
        problems = "; ".join(claims["problems"]) or "no reason given"
        yield f"C2PA signature NOT valid, so the manifest is no evidence (it names the signer {name}{time}): {problems}."
    date = f" (of {claims['trust_list_date']})" if claims["trust_list_date"] else ""
    if claims["trusted"]:
        yield f"C2PA signer is on the trust list{date}: this is evidence."
    elif claims["trust_list"]:
        yield f"C2PA signer is not on the trust list{date}. A certificate can carry any name, so the signer is unproven."
    else:
        line = "C2PA signer not verified: no trust list given (--trust-list FILE.pem)."
        yield line + (" A certificate can carry any name, so the signer is unproven." if valid else "")
    if identity := claims["identity"]:
        names = ", ".join(identity["names"]) or "no name"
        verified = "verified" if identity["verified"] else f"could not be checked: {identity['problem'] or 'no result'}"
        yield f"Identity statement (CAWG) in the C2PA manifest: {names}; {verified}."


def _summarise_generator(entry):
    if entry["name_only"]:
        return f"Name of a program that generates images (not signed, anybody can type it): {entry['kind']}."
    parts = [entry["kind"] + (" (edited with AI)" if entry["partly"] else "")]
    parts += [f"prompt “{line_of(entry['prompt'])}”"] if entry["prompt"] else []
    parts += [f"{name} {entry[name]}" for name in ("model", "seed") if entry[name]]
    wanted = ("Sampler", "sampler", "sampler_name", "Steps", "steps", "Version", "version")
    parts += [f"{name} {entry['settings'][name]}" for name in wanted if name in entry["settings"]]
    return f"Metadata of an image generator (not signed): {', '.join(parts)}."


def _summarise_rest(found):
    camera, xmp, aigc = found["camera"], found["xmp"] or {}, found["aigc"]
    if aigc:
        producer = f", producer {aigc['producer']}" if aigc["producer"] else ""
        yield f"AIGC label (China, GB 45438-2025; not signed): {aigc['meaning']}{producer}."
    if camera:
        parts = [camera[name] for name in ("make", "model", "lens", "exposure")]
        parts += [camera["f_number"] and f"f/{camera['f_number']:g}", camera["iso"] and f"ISO {camera['iso']}"]
        parts += [camera["focal_length"], camera["time"] and f"taken {camera['time']}", camera["position"] and POSITION]
        yield f"Camera (EXIF, not signed): {', '.join(filter(None, parts))}."
    rest = {
        "Prompt written by (XMP, not signed)": xmp.get("ai_prompt_writer"),
        "Software (not signed)": ", ".join(_programs(found)[:3]),
        "History (XMP, not signed)": ", ".join(xmp.get("history") or []),
        "Credit (not signed)": xmp.get("credit"),
        "Refers to a C2PA manifest elsewhere, which is not fetched": xmp.get("manifest_link"),
    }
    yield from (f"{name}: {value}." for name, value in rest.items() if value)
