import pytest

from detector.provenance import read
from detector.provenance.c2pa import parse_manifests
from detector.provenance.conclusion import UNSIGNED, conclude
from tests.sample_files import CAPTURE, MADE, PARAMETERS, SHOT, TRAINED, drawn, exif, manifest, store, with_text, xmp

PARTLY = manifest({"action": "c2pa.created", "digitalSourceType": TRAINED.replace("trained", "compositeWithTrained")})
CROPPED = manifest({"action": "c2pa.created", "digitalSourceType": CAPTURE}, {"action": "c2pa.cropped"})
OPENED = manifest({"action": "c2pa.opened"})
SIGNER = {"signature_info": {"common_name": "Signer", "issuer": "Issuer"}}
UNVERIFIED, TRUSTED = "signed: Signer (signer not verified)", "signed: Signer (trusted)"

PLAIN, NAME = drawn(), with_text(Software="Adobe Firefly")
WEB_UI = with_text(parameters=PARAMETERS)


def source_type(term):
    return drawn("JPEG", xmp=xmp("", f'any:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{term}"'))


AI_TERM, PARTLY_TERM = source_type("trainedAlgorithmicMedia"), source_type("compositeWithTrainedAlgorithmicMedia")
CAMERA = drawn("JPEG", exif=exif({0x010F: "NIKON", 0x0110: "D70"}))
UPSCALED = with_text(prompt={"1": {"class_type": "LoadImage", "inputs": {}}})
ROWS = [  # unsigned metadata, manifest, state of its signature; verdict; conclusion, basis, a word of the note
    # a valid signature that says AI counts before all else
    (PLAIN, MADE, "Valid", "Real", "AI-generated", UNVERIFIED, None),
    (CAMERA, MADE, "Trusted", "Real", "AI-generated", TRUSTED, None),
    (PARTLY_TERM, MADE, "Valid", "uncertain", "AI-generated", UNVERIFIED, None),
    (PLAIN, PARTLY, "Trusted", "Real", "AI-edited", TRUSTED, None),
    (WEB_UI, PARTLY, "Valid", "Fake", "AI-edited", UNVERIFIED, None),
    # a camera's signature
    (CAMERA, SHOT, "Trusted", "Real", "camera original", TRUSTED, None),
    (PLAIN, SHOT, "Valid", "uncertain", "camera original", UNVERIFIED, None),
    (PLAIN, SHOT, "Trusted", "Fake", "camera original", TRUSTED, "warning"),
    (PLAIN, SHOT, "Valid", "Fake", "Fake", "detector", "not verified"),  # anybody can sign
    (PLAIN, CROPPED, "Valid", "Fake", "Fake", "detector", "not verified"),
    (PLAIN, CROPPED, "Valid", "Real", "camera original", UNVERIFIED, "cropped"),
    # contradictions
    (WEB_UI, SHOT, "Trusted", "Real", "Real", "detector", "contradiction"),
    (AI_TERM, SHOT, "Valid", "Fake", "Fake", "detector", "contradiction"),
    (PARTLY_TERM, SHOT, "Valid", "uncertain", "uncertain", "detector", "contradiction"),
    (NAME, SHOT, "Trusted", "Real", "Real", "detector", "Adobe Firefly"),
    # unsigned metadata
    (WEB_UI, None, None, "Real", "AI-generated", UNSIGNED, None),
    (AI_TERM, None, None, "uncertain", "AI-generated", UNSIGNED, None),
    (PARTLY_TERM, None, None, "Real", "AI-edited", UNSIGNED, None),
    (UPSCALED, None, None, "Real", "AI-edited", UNSIGNED, None),
    (WEB_UI, OPENED, "Valid", "Real", "AI-generated", UNSIGNED, None),  # the signature says nothing of the origin
    (WEB_UI, SHOT, "Invalid", "Real", "AI-generated", UNSIGNED, "not valid"),
    (AI_TERM, MADE, "Invalid", "Real", "AI-generated", UNSIGNED, "not valid"),
    (PARTLY_TERM, MADE, "Invalid", "Real", "AI-edited", UNSIGNED, "not valid"),
    # the detector's verdict
    (PLAIN, MADE, "Invalid", "Real", "Real", "detector", "not valid"),
    (CAMERA, SHOT, "Invalid", "Fake", "Fake", "detector", "not valid"),
    (NAME, None, None, "Real", "Real", "detector", "Adobe Firefly"),
    (source_type("digitalCapture"), None, None, "Fake", "Fake", "detector", None),
    (CAMERA, None, None, "Fake", "Fake", "detector", None),
    (PLAIN, OPENED, "Valid", "Real", "Real", "detector", None),
    (PLAIN, None, None, "Fake", "Fake", "detector", None),
    (PLAIN, None, None, "Real", "Real", "detector", None),
    (PLAIN, None, None, "uncertain", "uncertain", "detector", None),
]  # fmt: skip


@pytest.mark.parametrize(("data", "claim", "state", "verdict", "conclusion", "basis", "word"), ROWS)
def test_each_row_of_the_table(data, claim, state, verdict, conclusion, basis, word):
    found = read(data)
    if claim:
        found.update(c2pa=parse_manifests(store(claim | SIGNER, state)), has_c2pa=True)
    row = conclude(found, verdict, verdict == "Fake")
    assert (row["conclusion"], row["basis"]) == (conclusion, basis)
    assert word in row["note"] if word else row["note"] is None


@pytest.mark.parametrize(("claim", "codes", "conclusion"), [
    (MADE, ["signingCredential.expired", "signingCredential.untrusted"], "AI-generated"),
    (PARTLY, ["signingCredential.expired", "cawg.ica.did_unavailable"], "AI-edited"),
    (SHOT, ["signingCredential.expired"], "Real"),
    (MADE, ["signingCredential.expired", "assertion.dataHash.mismatch"], "Real"),
])  # fmt: skip
def test_an_expired_certificate_leaves_a_declaration(claim, codes, conclusion):
    claims = parse_manifests(store(claim, "Invalid", codes, ["claimSignature.validated"]))
    assert claims["signature"] == "invalid"
    row = conclude(read(PLAIN) | {"c2pa": claims, "has_c2pa": True}, "Real", False)
    assert (row["conclusion"], row["basis"]) == (conclusion, "detector" if conclusion == "Real" else UNSIGNED)
    assert ("expired" in row["note"]) == (
        len(codes) == 1 or codes[1] in ("signingCredential.untrusted", "cawg.ica.did_unavailable")
    )


def test_unchecked_manifests_unnamed_signers_and_no_provenance():
    row = conclude(read(PLAIN) | {"has_c2pa": True}, "Real", False)
    assert (row["conclusion"], row["basis"]) == ("Real", "detector") and "could not be checked" in row["note"]
    found = read(PLAIN) | {"c2pa": parse_manifests(store(MADE)), "has_c2pa": True}
    assert conclude(found, "Real", False)["basis"] == "signed: unnamed signer (signer not verified)"
    assert conclude(None, "Fake", True) == {"conclusion": "Fake", "basis": "detector", "note": None}


@pytest.mark.parametrize(("state", "conclusion", "basis"), [
    ("Valid", "uncertain", "detector"), ("Trusted", "camera original", TRUSTED),
])  # fmt: skip
def test_a_high_score_counts_against_an_unverified_camera_whatever_the_verdict(state, conclusion, basis):
    found = read(PLAIN) | {"c2pa": parse_manifests(store(SHOT | SIGNER, state)), "has_c2pa": True}
    row = conclude(found, "uncertain", fake_score=True)
    assert (row["conclusion"], row["basis"]) == (conclusion, basis)
