"""C2PA manifests (content credentials): what they say, and whether their signatures are valid, read by c2pa-python.

Nothing is fetched from a network: neither manifests nor lists of revoked certificates nor identities.
"""

import functools
import io
import json
import os
import re
from pathlib import Path

from detector.provenance.fields import AI_TERMS, PARTLY_AI_TERMS, SOURCE_TYPES, inside, line_of, reason, source_type
from detector.provenance.trust_list import INSTALL, trust_list_date

MANIFEST_LIMIT = 32 << 20  # bytes of a manifest; larger ones are not checked
SIGNED_LIMIT = 512 << 20  # bytes of a file with a manifest: all of it is hashed
# Purposes of a signer's certificate: C2PA claim signing, document signing, e-mail protection, Microsoft's C2PA signing.
# By default, c2pa-python (0.38) does not know the first, which the standard demands, and finds OpenAI's manifests invalid.
PURPOSES = "1.3.6.1.4.1.62558.2.1\n1.3.6.1.5.5.7.3.36\n1.3.6.1.5.5.7.3.4\n1.3.6.1.4.1.311.76.59.1.9\n"
NO_EDITS = {  # actions that do not change what the image shows
    "created", "opened", "converted", "transcoded", "repackaged", "published", "watermarked", "watermarked.bound",
    "watermarked.unbound", "managed", "produced", "saved", "printed",
}  # fmt: skip
EXPIRED = "signingCredential.expired"
UNTRUSTED = "signingCredential.untrusted"  # the only failure that leaves a signature valid, apart from those of an identity
CAWG = "cawg."  # status codes of CAWG's identity assertion, a statement of its own inside the manifest
CHANGED = "the image was changed after it was signed"
UNCOVERED = "the signature does not cover the whole file: the rest may have been changed"


@functools.lru_cache(maxsize=4)
def _context(anchors):
    """Return the settings of c2pa-python: no network, and the trust list, if there is one."""
    import c2pa

    trust = {"trust_config": PURPOSES} | ({"user_anchors": anchors} if anchors else {})
    return c2pa.Context.from_dict({
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
        "core": {"allowed_network_hosts": []},
        "trust": trust,
        "cawg_trust": {"verify_trust_list": True},
    })  # fmt: skip


def read_manifest(content: bytes, metadata, trust_list: str | os.PathLike | None) -> dict | None:
    """Read and verify a manifest.

    Args:
        content: the file.
        metadata: detector.provenance.containers.Metadata of the file; it gets notes.
        trust_list: path of a PEM file, or None.

    Returns:
        `c2pa` of detector.provenance; None, with a note, if the manifest cannot be read.
    """
    if metadata.manifest > MANIFEST_LIMIT or len(content) > SIGNED_LIMIT:
        return metadata.note(f"C2PA manifest not checked, too large: {metadata.manifest:,} bytes in a file of {len(content):,}")
    try:
        import c2pa
    except (ImportError, OSError, RuntimeError):  # not installed, or its library cannot be loaded
        return metadata.note(f"C2PA manifest not checked: c2pa-python is not installed; {INSTALL}")
    anchors = date = None
    try:
        if trust_list is not None:
            anchors, date = Path(trust_list).read_text(encoding="utf-8"), trust_list_date(trust_list)
    except (OSError, ValueError) as error:
        metadata.note(f"the trust list could not be read: {reason(error)}")
    try:
        with c2pa.Reader(f"image/{metadata.kind.lower()}", io.BytesIO(content), context=_context(anchors)) as reader:
            store = json.loads(reader.json())
    except Exception as error:  # c2pa-python raises its own and general exceptions
        return metadata.note(f"C2PA manifest unreadable: {reason(error)}")
    return parse_manifests(store, date)


def parse_manifests(store: dict, trust_list_date: str | None = None) -> dict:
    """Return `c2pa` of detector.provenance.

    Args:
        store: manifests and validation results, the JSON of c2pa-python's Reader.
        trust_list_date: date of the trust list that was used, or None.
    """
    active = inside(store, "manifests", store.get("active_manifest")) or {}
    info = active.get("signature_info") or {}
    actions, ai_parts = _actions(store, store.get("active_manifest"), set())
    names = [name for action in actions if (name := _name(action))]
    codes, successes, problems, changed = _statuses(store)
    valid, trusted = _validity(store.get("validation_state"), codes, successes)
    data = [inside(assertion, "data") for assertion in active.get("assertions") or []]
    return {
        "signer": line_of(info.get("common_name")),
        "issuer": line_of(info.get("issuer")),
        "time": line_of(info.get("time"), 40),
        "generator": _generator(active, actions),
        **_origin(actions, ai_parts),
        "signature": "valid" if valid else "invalid",
        "expired": not valid and _voiding(codes) == {EXPIRED} and "claimSignature.validated" in successes,
        "trusted": trusted,
        "trust_list": trust_list_date is not None,
        "trust_list_date": trust_list_date,
        "identity": _identity(active, codes, successes),
        "actions": [line_of(name, 60) for name in dict.fromkeys(names)][:20],
        "edited_after": changed or not NO_EDITS.issuperset(names),
        "changed_since_signing": changed,
        "ingredients": len(active.get("ingredients") or []),
        "position": any("GPSLatitude" in key for values in data if isinstance(values, dict) for key in values),
        "problems": problems,
    }


def _actions(store, label, visited):
    """Return the actions of a manifest, after those of the image that it was made from, and whether AI made one of its parts.

    A source type in an assertion of its own is returned as an action without a name.
    """
    manifest = inside(store, "manifests", label)
    if not isinstance(manifest, dict) or label in visited or len(visited) >= 20:
        return [], False
    visited.add(label)
    found, ai_parts = [], False
    for ingredient in manifest.get("ingredients") or []:
        role, origin = inside(ingredient, "relationship"), inside(ingredient, "active_manifest")
        if role in ("parentOf", "componentOf") and isinstance(origin, str):
            actions, inner = _actions(store, origin, visited)
            found += actions if role == "parentOf" else []
            made = role == "componentOf" and any(inside(_kind(action), "term") in AI_TERMS for action in actions)
            ai_parts = ai_parts or inner or made
    for assertion in manifest.get("assertions") or []:
        label, data = str(inside(assertion, "label") or ""), inside(assertion, "data")
        if label.startswith("c2pa.actions"):
            listed = inside(data, "actions")
            found += [action for action in (listed if isinstance(listed, list) else [])[:200] if isinstance(action, dict)]
        elif kind := inside(data, "Iptc4xmpExt:DigitalSourceType"):
            found.append({"digitalSourceType": kind})
    return found, ai_parts


def _name(action):
    return str(action.get("action") or "").removeprefix("c2pa.")


def _kind(action):
    """Return the source type of an action; Adobe's programs keep that of another company's model in its parameters."""
    kind = inside(action, "digitalSourceType") or inside(action, "parameters", "com.adobe.digitalSourceType")
    return source_type(kind, "C2PA")


def _origin(actions, ai_parts):
    """Return the source type of the action that made the image, or else the first one, and what AI had to do with it."""
    kinds = [(_name(action), kind) for action in actions if (kind := _kind(action))]
    made = next((kind for name, kind in kinds if name in ("created", "")), None)
    made = made or next((kind for name, kind in kinds if name == "opened" and kind["term"] in AI_TERMS), None)
    says = made and SOURCE_TYPES[made["term"]][0]
    partly = ai_parts or any(kind["term"] in PARTLY_AI_TERMS | AI_TERMS for _, kind in kinds)
    return {
        "digital_source_type": made or (kinds[0][1] if kinds else None),
        "ai_generated": True if says == "made by AI" else False if says == "camera" and not partly else None,
        "ai_edited": partly and says != "made by AI",
    }


def _generator(manifest, actions):
    """Return the name of the program that made the image, from the first action that has one, and of the program that signed it."""
    claims = manifest.get("claim_generator_info")
    claim = claims[0] if isinstance(claims, list) and claims else manifest.get("claim_generator")
    agents = (action.get("softwareAgent") or inside(action, "parameters", "com.adobe.details") for action in actions)
    names = []
    for program in (next(filter(None, agents), None), claim):
        name = program
        if isinstance(program, dict):
            name = " ".join(str(program[key]) for key in ("name", "version") if program.get(key))
        names += [name] if line_of(name) and name not in names else []
    return line_of(f"{names[0]} ({names[1]})" if len(names) > 1 else names[0] if names else None)


def _validity(state, codes, successes):
    """Return whether the signature is valid, and whether its signer is trusted.

    c2pa-python calls a manifest invalid if its identity assertion cannot be verified, which mostly takes a network.
    """
    if state in ("Valid", "Trusted"):
        return True, state == "Trusted"
    identity = any(code.startswith(CAWG) for code in codes)
    valid = identity and not _voiding(codes) and "claimSignature.validated" in successes
    return valid, valid and "signingCredential.trusted" in successes


def _voiding(codes):
    """Return the failure codes that make a signature invalid."""
    return {code for code in codes if not code.startswith(CAWG) and code != UNTRUSTED}


def _identity(manifest, codes, successes):
    """Return {names, verified, problem} of CAWG's identity assertion (who claims to have made the image), or None."""
    labels = ((str(inside(assertion, "label")), inside(assertion, "data")) for assertion in manifest.get("assertions") or [])
    data = next((data for label, data in labels if label.startswith("cawg.identity")), None)
    problem = next((code for code in codes if code.startswith(CAWG)), None)
    if data is None and problem is None:
        return None
    listed = inside(data, "verifiedIdentities") or inside(data, "credentialSubject", "verifiedIdentities")
    names = []
    for entry in (listed if isinstance(listed, list) else [])[:5]:
        name, provider = inside(entry, "name") or inside(entry, "username"), inside(entry, "provider", "name")
        names.append(line_of(f"{name or 'no name'} (according to {provider})" if provider else name))
    names.append(line_of(inside(data, "signature_info", "common_name") or inside(data, "signature_info", "issuer")))
    return {
        "names": [name for name in dict.fromkeys(names) if name],
        "verified": problem is None and any(code.startswith(CAWG) for code in successes),
        "problem": line_of(problem),
    }


def _statuses(store):
    """Return (failure codes, success codes, problems in words, whether the image was changed after signing).

    Problems exclude those of an identity, and of a signer on no trust list.
    """
    results = store.get("validation_results") or {}
    active = results.get("activeManifest") or {}
    deltas = [inside(delta, "validationDeltas", "failure") or [] for delta in results.get("ingredientDeltas") or []]
    successes = {str(inside(status, "code")) for status in active.get("success") or []}
    codes, problems, changed = [], [], False
    for i, statuses in enumerate([active.get("failure") or store.get("validation_status") or [], *deltas]):
        for status in statuses:
            code = str(inside(status, "code") or "")
            codes.append(code)
            if code not in _voiding([code]):
                continue
            line = f"{code}: {line_of(inside(status, 'explanation')) or 'no explanation'}"
            if re.fullmatch(r"assertion\.(dataHash|boxesHash|bmffHash)\.mismatch", code):
                whole = code.replace("mismatch", "match") not in successes
                line = CHANGED if whole else UNCOVERED
                changed = changed or (whole and i == 0)
            problems.append(line_of(f"in an ingredient: {line}" if i else line))
    return codes, successes, list(dict.fromkeys(problems))[:10], changed
