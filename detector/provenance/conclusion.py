"""One conclusion per image, from its provenance metadata and the detector's verdict."""

from detector.provenance.fields import AI_TERMS, PARTLY_AI_TERMS

UNSIGNED = "declared by the file, unsigned"


def conclude(provenance: dict | None, verdict: str, fake_score: bool) -> dict[str, str | None]:
    """Return the conclusion on an image and what it rests on.

    The first row that applies decides:

        valid signature: AI-generated                      AI-generated     signed: NAME (trusted | signer not verified)
        valid signature: edited with AI or partly AI       AI-edited        the same
        valid signature: camera, but metadata that says AI the verdict      detector, with a note
        valid signature: camera, not verified, P(Fake) high the verdict      detector, with a note
        valid signature: camera, otherwise                 camera original  the same; a note if the verdict is Fake
        unsigned metadata: AI-generated                    AI-generated     declared by the file, unsigned
        unsigned metadata: edited with AI or partly AI     AI-edited        declared by the file, unsigned
        (a manifest whose certificate has expired, but whose image is unchanged, counts as unsigned metadata)
        broken or unchecked signature, name of a program   the verdict      detector, with a note
        otherwise                                          the verdict      detector

    Args:
        provenance: dict of `detector.provenance.read`, or None if it was not read.
        verdict: "Fake", "Real" or "uncertain".
        fake_score: whether P(Fake) is at or above the threshold of Fake, even if the verdict became "uncertain" for another reason.

    Returns:
        A dict of `conclusion` ("AI-generated", "AI-edited", "camera original", or the verdict), `basis` (a line) and `note` (a
        line, or None).
    """
    if provenance is None:
        return _row(verdict, "detector")
    claims = provenance["c2pa"]
    generated, edited, names = _declarations(provenance)
    notes = []
    if claims and claims["signature"] == "valid":
        signer = claims["signer"] or claims["issuer"] or "unnamed signer"
        signed = f"signed: {signer} ({'trusted' if claims['trusted'] else 'signer not verified'})"
        if claims["ai_generated"]:
            return _row("AI-generated", signed)
        if claims["ai_edited"]:
            return _row("AI-edited", signed)
        if claims["ai_generated"] is False:
            if contradiction := (generated + edited + names)[:1]:
                note = f"contradiction: a valid signature of {signer} says camera, but the file also holds {contradiction[0]}"
                return _row(verdict, "detector", note)
            if fake_score and not claims["trusted"]:  # anybody can make a certificate
                return _row(verdict, "detector", f"a signature of {signer}, who is not verified, says camera")
            if claims["edited_after"]:
                notes.append(f"the signed manifest records edits: {', '.join(claims['actions'])}")
            if verdict == "Fake":
                notes.append("warning: the detector's verdict is Fake")
            return _row("camera original", signed, *notes)
    elif claims:
        expired = "the certificate of the C2PA signature has expired"
        notes.append(expired if claims["expired"] else "the C2PA signature is not valid")
    elif provenance["has_c2pa"]:
        notes.append("the C2PA manifest could not be checked")
    if generated:
        return _row("AI-generated", UNSIGNED, *notes)
    if edited:
        return _row("AI-edited", UNSIGNED, *notes)
    notes += [f"the file holds {name}, which anybody can type" for name in names[:1]]
    return _row(verdict, "detector", *notes)


def _row(conclusion, basis, *notes):
    return {"conclusion": conclusion, "basis": basis, "note": "; ".join(notes) or None}


def _declarations(provenance):
    """Return what unsigned metadata declares, as three lists of noun phrases: AI-generated, AI-edited, names of programs only."""
    generated, edited, names = [], [], []
    claims = provenance["c2pa"]
    if claims and claims["expired"]:
        generated += ["a C2PA manifest"] if claims["ai_generated"] else []
        edited += ["a C2PA manifest"] if claims["ai_edited"] else []
    for entry in provenance["generator"]:
        if entry["name_only"]:
            names.append(f"the name {entry['kind']}")
        else:
            (edited if entry["partly"] else generated).append(f"metadata of {entry['kind']}")
    kind = (provenance["xmp"] or {}).get("digital_source_type")
    if kind:
        phrase = f"the IPTC source type {kind['term']}"
        generated += [phrase] if kind["term"] in AI_TERMS else []
        edited += [phrase] if kind["term"] in PARTLY_AI_TERMS else []
    if label := provenance["aigc"]:
        (generated if label["label"] == "1" else names).append(f"an AIGC label ({label['meaning']})")
    return generated, edited, names
