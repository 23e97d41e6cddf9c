"""What the C2PA manifest of a file says and whether its signature holds: content credentials, read through c2pa-python.

Nothing is ever fetched from a network: neither manifests nor lists of revoked certificates.
"""

import functools
import io
import json
import re
from pathlib import Path

from detector.provenance.fields import AI_TERMS, PARTLY_AI_TERMS, SOURCE_TYPES, inside, line_of, reason, source_type

MANIFEST_LIMIT = 32 << 20  # bytes of a manifest; larger ones are not handed to c2pa-python
SIGNED_LIMIT = 512 << 20  # bytes of a file with one: all of it is hashed
INSTALL = "run: pip install -r requirements-app.txt (c2pa-python comes for Linux with glibc, macOS and Windows on x86-64 and ARM)"
# What a signer's certificate may be for: C2PA claim signing, document signing, e-mail protection, Microsoft's C2PA signing.
# Left to itself, c2pa-python (0.38) does not know the first, which the standard asks for, and calls OpenAI's manifests invalid.
PURPOSES = "1.3.6.1.4.1.62558.2.1\n1.3.6.1.5.5.7.3.36\n1.3.6.1.5.5.7.3.4\n1.3.6.1.4.1.311.76.59.1.9\n"
NO_EDITS = {  # actions that leave the picture what it was
    "created", "opened", "converted", "transcoded", "repackaged", "published", "watermarked", "watermarked.bound",
    "watermarked.unbound", "managed", "produced", "saved", "printed",
}  # fmt: skip
PROBLEMS = {
    "claimSignature.mismatch": "the signature does not fit the manifest",
    "claimSignature.outsideValidity": "it was signed when the certificate was not valid",
    "claimSignature.missing": "there is no signature",
    "assertion.hashedURI.mismatch": "a statement in the manifest was changed after it was signed",
    "assertion.missing": "a statement is missing from the manifest",
    "signingCredential.expired": "the signer's certificate has expired, and no time stamp shows that it was signed before",
    "signingCredential.ocsp.revoked": "the signer's certificate has been revoked",
    "signingCredential.invalid": "the signer's certificate is not one for signing manifests",
}
CHANGED = "the image was changed after it was signed"
UNCOVERED = "the signature leaves out a part of the file that holds more than the manifest; what stands there may have been changed"


@functools.lru_cache(maxsize=4)
def _context(anchors):
    """Return c2pa-python's settings: no host may be asked for anything."""
    import c2pa

    trust = {"trust_config": PURPOSES} | ({"user_anchors": anchors} if anchors else {})
    return c2pa.Context.from_dict({
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
        "core": {"allowed_network_hosts": []},
        "trust": trust,
        "cawg_trust": {"verify_trust_list": True},
    })  # fmt: skip


def read_manifest(file, metadata, trust_list):
    """Have a manifest read and checked by c2pa-python: `c2pa` of detector.provenance; None, with a note, where it cannot be."""
    end = file.seek(0, io.SEEK_END)
    if metadata.manifest > MANIFEST_LIMIT or end > SIGNED_LIMIT:
        size = f"{metadata.manifest:,} bytes in a file of {end:,}"
        return metadata.note(f"it holds a C2PA manifest, too large to be checked here ({size})")
    try:
        import c2pa
    except (ImportError, OSError, RuntimeError):  # absent, or its library does not load
        return metadata.note(f"it holds a C2PA manifest, not looked at: the package c2pa-python is not installed; {INSTALL}")
    try:
        anchors = None if trust_list is None else Path(trust_list).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        anchors = trust_list = metadata.note(f"the trust list could not be read: {reason(error)}")
    file.seek(0)
    try:
        with c2pa.Reader(f"image/{metadata.kind.lower()}", file, context=_context(anchors)) as reader:
            store = json.loads(reader.json())
    except Exception as error:
        return metadata.note(f"it holds a C2PA manifest, which cannot be read: {reason(error)}")
    return manifest_facts(store, trust_list is not None)


def manifest_facts(store, trust_list=False):
    """Return `c2pa` of detector.provenance from the JSON of c2pa-python's Reader."""
    active = inside(store, "manifests", store.get("active_manifest")) or {}
    info, state = active.get("signature_info") or {}, store.get("validation_state")
    actions, parts = _told(store, store.get("active_manifest"), set())
    names = [name for action in actions if (name := _name(action))]
    problems, changed = _problems(store)
    position = any("GPSLatitude" in key for said in active.get("assertions") or [] for key in inside(said, "data") or ())
    return {
        "signer": line_of(info.get("common_name")),
        "issuer": line_of(info.get("issuer")),
        "time": line_of(info.get("time"), 40),
        "generator": _generator(active, actions),
        **_origin(actions, parts),
        "signature": "valid" if state in ("Valid", "Trusted") else "invalid",
        "trusted": state == "Trusted",
        "trust_list": trust_list,
        "actions": [line_of(name, 60) for name in dict.fromkeys(names)][:20],
        "edited_after": changed or not NO_EDITS.issuperset(names),
        "changed_since_signing": changed,
        "ingredients": len(active.get("ingredients") or []),
        "position": position,
        "problems": problems,
    }


def _told(store, label, seen):
    """Return the actions of a manifest behind those of the image that it started from, and whether AI made a part put into it.

    IPTC's source type may stand in a statement of its own: it is returned as an action without a name.
    """
    manifest = inside(store, "manifests", label)
    if not isinstance(manifest, dict) or label in seen or len(seen) >= 20:
        return [], False
    seen.add(label)
    before, parts = [], False
    for ingredient in manifest.get("ingredients") or []:
        role, origin = inside(ingredient, "relationship"), inside(ingredient, "active_manifest")
        if role in ("parentOf", "componentOf") and isinstance(origin, str):
            actions, inner = _told(store, origin, seen)
            before += actions if role == "parentOf" else []
            made = role == "componentOf" and any(inside(_kind(action), "term") == "trainedAlgorithmicMedia" for action in actions)
            parts = parts or inner or made
    for assertion in manifest.get("assertions") or []:
        label, data = str(inside(assertion, "label") or ""), inside(assertion, "data")
        if label.startswith("c2pa.actions"):
            listed = inside(data, "actions")
            before += [action for action in (listed if isinstance(listed, list) else [])[:200] if isinstance(action, dict)]
        elif kind := inside(data, "Iptc4xmpExt:DigitalSourceType"):
            before.append({"digitalSourceType": kind})
    return before, parts


def _name(action):
    return str(action.get("action") or "").removeprefix("c2pa.")


def _kind(action):
    return source_type(inside(action, "digitalSourceType"), "C2PA")


def _origin(actions, parts):
    """Return what actions say of where the image comes from: the source type of its making, or else the first."""
    kinds = [(_name(action), kind) for action in actions if (kind := _kind(action))]
    made = next((kind for name, kind in kinds if name in ("created", "")), None)
    says = made and SOURCE_TYPES[made["term"]][0]
    partly = parts or any(kind["term"] in PARTLY_AI_TERMS | AI_TERMS for _, kind in kinds)
    return {
        "digital_source_type": made or (kinds[0][1] if kinds else None),
        "ai_generated": True if says == "made by AI" else False if says == "camera" and not partly else None,
        "ai_edited": partly and says != "made by AI",
    }


def _generator(manifest, actions):
    """Return the name of what made the image: the software of the first action that names one, and what wrote the manifest."""
    claims = manifest.get("claim_generator_info")
    claim = claims[0] if isinstance(claims, list) and claims else manifest.get("claim_generator")
    agent = next((agent for action in actions if (agent := action.get("softwareAgent"))), None)
    names = []
    for thing in (agent, claim):
        name = " ".join(str(thing[key]) for key in ("name", "version") if thing.get(key)) if isinstance(thing, dict) else thing
        names += [name] if line_of(name) and name not in names else []
    return line_of(f"{names[0]} ({names[1]})" if len(names) > 1 else names[0] if names else None)


def _problems(store):
    """Return what is wrong with a manifest, in words (to be on no trust list is not), and whether the image was changed."""
    results = store.get("validation_results") or {}
    active = results.get("activeManifest") or {}
    deltas = [inside(delta, "validationDeltas", "failure") or [] for delta in results.get("ingredientDeltas") or []]
    good = {inside(status, "code") for status in active.get("success") or []}
    problems, changed = [], False
    for i, statuses in enumerate([active.get("failure") or store.get("validation_status") or [], *deltas]):
        for status in statuses:
            code = str(inside(status, "code") or "")
            if code == "signingCredential.untrusted":
                continue
            line = PROBLEMS.get(code) or f"{code}: {line_of(inside(status, 'explanation')) or ''}"
            if re.fullmatch(r"assertion\.(dataHash|boxesHash|bmffHash)\.mismatch", code):
                whole = code.replace("mismatch", "match") not in good
                line = CHANGED if whole else UNCOVERED
                changed = changed or (whole and i == 0)
            problems.append(line_of(f"in an ingredient: {line}" if i else line))
    return list(dict.fromkeys(problems))[:10], changed
