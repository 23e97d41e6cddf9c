import http.server
import io
import json
import sys
import threading

import pytest

from detector import provenance
from detector.provenance import UNSIGNED, c2pa, read
from detector.provenance.c2pa import parse_manifests
from detector.provenance.trust_list import trust_list_date
from tests.sample_files import (
    CAPTURE,
    KEYS,
    KINDS,
    MADE,
    PARAMETERS,
    SHOT,
    TRAINED,
    drawn,
    harmless,
    manifest,
    png,
    store,
    with_text,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_manifest_of_an_unknown_signer(workshop, kind):
    found = read(workshop.sign(drawn(kind), MADE, f"image/{kind.lower()}"))
    claims = found["c2pa"]
    assert (claims["signature"], claims["trusted"], claims["problems"], found["notes"]) == ("valid", False, [], [])
    assert (claims["signer"], claims["issuer"], claims["generator"]) == ("Signer <b>of the test", "Drawn", "painter (Drawer 1)")
    assert (claims["ai_generated"], claims["edited_after"], claims["actions"]) == (True, False, ["created"])
    assert found["digital_source_type"]["source"] == "C2PA"
    assert (found["says"], found["signed"], found["because"]) == (
        "made by AI", True, "C2PA manifest, signature valid, signer not trusted",
    )  # fmt: skip
    text = " ".join(harmless(found))
    assert "C2PA signature valid" in text and "--trust-list" in text and claims["trust_list_date"] is None


def test_a_signer_on_the_trust_list(workshop, tmp_path):
    signed = workshop.sign(drawn(), SHOT)
    found = read(signed, trust_list=workshop.root)
    claims = found["c2pa"]
    assert (claims["trusted"], claims["ai_generated"], found["says"], found["signed"]) == (True, False, "camera", True)
    date = trust_list_date(workshop.root)
    assert claims["trust_list_date"] == date and any(f"on the trust list (of {date})" in line for line in harmless(found))
    found = read(signed, trust_list=tmp_path / "nothing.pem")
    assert found["notes"] == ["the trust list could not be read: No such file or directory"] and not found["c2pa"]["trust_list"]
    type(workshop)(tmp_path)
    found = read(signed, trust_list=tmp_path / "root.pem")  # of somebody else
    assert (found["c2pa"]["trusted"], found["c2pa"]["signature"]) == (False, "valid")
    assert any("signer is not on the trust list" in line for line in harmless(found))


def test_manifest_against_metadata_of_a_generator(workshop):
    signed = workshop.sign(with_text(parameters=PARAMETERS), SHOT)
    found = read(signed)
    assert (found["says"], found["signed"], found["c2pa"]["signature"]) == ("made by AI", False, "valid")
    found = read(signed, trust_list=workshop.root)
    assert (found["says"], found["signed"]) == ("camera", True)
    lines = harmless(found)
    assert "Stable Diffusion web UI" in lines[3] and UNSIGNED in lines


def test_an_image_changed_after_signing(workshop):
    signed = bytearray(workshop.sign(drawn(), MADE))
    signed[signed.rindex(b"IDAT") + 8] ^= 1
    found = read(bytes(signed))
    claims = found["c2pa"]
    assert (claims["signature"], claims["changed_since_signing"], claims["edited_after"]) == ("invalid", True, True)
    assert claims["problems"] == ["the image was changed after it was signed"]
    assert (found["says"], found["signed"], found["because"]) == ("made by AI", False, "C2PA manifest, signature not valid")
    assert any("NOT valid" in line and "no evidence" in line for line in harmless(found))


def test_an_edit_signed_on_top(workshop):
    first = workshop.sign(drawn(), SHOT)
    found = read(workshop.sign(first, manifest({"action": "c2pa.color_adjustments"}), parent=first))
    claims = found["c2pa"]
    assert (claims["signature"], claims["ingredients"]) == ("valid", 1)
    assert (claims["edited_after"], claims["changed_since_signing"]) == (True, False)
    assert claims["actions"] == ["created", "opened", "color_adjustments"]
    assert (found["says"], found["signed"]) == ("edited", True)
    assert any("edited (color_adjustments); 1 ingredient" in line for line in harmless(found))


def test_a_part_made_by_ai(workshop):
    part = workshop.sign(drawn(), MADE)
    found = read(workshop.sign(drawn(), SHOT, part=part))
    assert (found["c2pa"]["ai_generated"], found["c2pa"]["ai_edited"]) == (None, True)
    assert (found["says"], found["signed"]) == ("edited", True)


THIRD_PARTY = {"com.adobe.digitalSourceType": TRAINED, "com.adobe.details": "some-model"}
SHOT_ACTION = {"action": "c2pa.created", "digitalSourceType": CAPTURE}


@pytest.mark.parametrize(("actions", "says", "generated"), [
    ([{"action": "c2pa.opened", "parameters": THIRD_PARTY}], "made by AI", True),
    ([{"action": "c2pa.opened", "parameters": THIRD_PARTY}, {"action": "c2pa.color_adjustments"}], "made by AI", True),
    ([{"action": "c2pa.opened", "digitalSourceType": TRAINED}], "made by AI", True),
    ([SHOT_ACTION, {"action": "c2pa.placed", "parameters": THIRD_PARTY}], "edited", None),
    ([{"action": "c2pa.opened"}, {"action": "c2pa.placed", "digitalSourceType": TRAINED}], "edited", None),
    ([{"action": "c2pa.opened", "digitalSourceType": CAPTURE}], "nothing", None),
    ([{"action": "c2pa.opened", "parameters": {"com.adobe.digitalSourceType": 7}}], "nothing", None),
])  # fmt: skip
def test_the_source_type_of_another_companys_model(actions, says, generated):
    found = read(drawn()) | {"c2pa": parse_manifests(store(manifest(*actions)))}
    provenance._sum_up(found)
    assert (found["says"], found["c2pa"]["ai_generated"], found["c2pa"]["ai_edited"]) == (says, generated, says == "edited")
    assert ("some-model" in str(found["c2pa"]["generator"])) == ("details" in str(actions))


VALIDATED = ["claimSignature.validated", "assertion.dataHash.match"]


@pytest.mark.parametrize(("failure", "success", "signature", "trusted", "problem"), [
    (["signingCredential.untrusted", "cawg.ica.did_unavailable"], VALIDATED, "valid", False, "cawg.ica.did_unavailable"),
    (["cawg.ica.untrusted_issuer"], [*VALIDATED, "signingCredential.trusted"], "valid", True, "cawg.ica.untrusted_issuer"),
    (["cawg.ica.did_unavailable", "assertion.dataHash.mismatch"], VALIDATED[:1], "invalid", False, "cawg.ica.did_unavailable"),
    (["cawg.ica.did_unavailable"], [], "invalid", False, "cawg.ica.did_unavailable"),
    (["signingCredential.untrusted", "claimSignature.mismatch"], [], "invalid", False, None),
])  # fmt: skip
def test_an_identity_that_cannot_be_checked_leaves_the_signature_valid(failure, success, signature, trusted, problem):
    subject = {"verifiedIdentities": [{"username": "jane", "provider": {"name": "A site"}}, {"name": "Jane"}, 7]}
    claims = parse_manifests(store(with_identity(subject), "Invalid", failure, success))
    assert (claims["signature"], claims["trusted"]) == (signature, trusted)
    identity = claims["identity"]
    assert (identity["names"], identity["verified"]) == (["jane (according to A site)", "Jane"], False)
    assert identity["problem"] == problem
    assert not any("cawg" in line for line in claims["problems"])
    lines = harmless(read(drawn()) | {"c2pa": claims, "has_c2pa": True})
    assert sum("jane (according to A site), Jane; could not be checked" in line for line in lines) == 1


def with_identity(data):
    return MADE | {"assertions": [*MADE["assertions"], {"label": "cawg.identity", "data": data}]}


def test_an_identity_that_was_verified():
    data = {"signature_info": {"issuer": "A newspaper"}}
    claims = parse_manifests(store(with_identity(data), "Trusted", success=[*VALIDATED, "cawg.identity.trusted"]))
    assert claims["identity"] == {"names": ["A newspaper"], "verified": True, "problem": None}
    for data in (None, [], {"verifiedIdentities": "x"}, {"verifiedIdentities": [None]}):
        assert parse_manifests(store(with_identity(data)))["identity"] in (None, {"names": [], "verified": False, "problem": None})
    assert parse_manifests(store(MADE))["identity"] is None


def test_nothing_is_fetched(workshop):
    hits = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/manifest.c2pa"
    remote = workshop.sign(drawn(), MADE, remote=address)
    found = read(remote)
    assert found["xmp"]["manifest_link"] == address and not found["has_c2pa"]
    assert any(f"not fetched: {address}" in line for line in harmless(found))
    marked = remote[:33] + png((b"caBX", b"\0\0\0\x08jumb"))[33:53] + remote[33:]  # c2pa-python is asked as well
    assert read(marked)["has_c2pa"]
    with pytest.raises(Exception, match="remote"):
        workshop.c2pa.Reader("image/png", io.BytesIO(remote), context=c2pa._context(None))
    assert hits == []
    with pytest.raises(Exception, match="remote"):  # and without our settings it does ask
        workshop.c2pa.Reader("image/png", io.BytesIO(remote))
    server.shutdown()
    server.server_close()
    assert hits == ["/manifest.c2pa"]


def test_damaged_manifests(workshop):
    signed = workshop.sign(drawn(), MADE)
    start, whole = signed.index(b"caBX"), read(signed)
    for place in range(start, start + 4000, 31):
        damaged = signed[:place] + bytes([signed[place] ^ 0xFF]) + signed[place + 1 :]
        found = read(damaged)
        harmless(found)
        assert not found["signed"] or found == whole  # not all that holds the manifest together is signed, all that it says is


def test_without_the_package_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # import c2pa raises ImportError
    data = png((b"caBX", bytes(100)), (b"tEXt", b"parameters\0" + PARAMETERS.encode()))
    found = read(data)
    assert found["has_c2pa"] and found["c2pa"] is None and found["says"] == "made by AI"
    (note,) = found["notes"]
    assert "c2pa-python" in note and note.endswith(c2pa.INSTALL)
    assert any("pip install -r requirements-app.txt" in line for line in harmless(found))
    assert "not installed" in harmless(read(png((b"caBX", bytes(100)))))[0]


@pytest.mark.parametrize(("failure", "success", "problem", "changed"), [
    (["assertion.dataHash.mismatch"], [], c2pa.CHANGED, True),
    (["assertion.dataHash.mismatch"], ["assertion.dataHash.match"], c2pa.UNCOVERED, False),
    (["claimSignature.mismatch", "signingCredential.untrusted"], [], "claimSignature.mismatch: no explanation", False),
])  # fmt: skip
def test_problems_in_words(failure, success, problem, changed):
    claims = parse_manifests(store(MADE, "Invalid", failure, success))
    assert (claims["problems"], claims["changed_since_signing"], claims["signature"]) == ([problem], changed, "invalid")


def test_manifests_in_a_circle_and_of_wrong_types():
    parent = [{"relationship": "parentOf", "active_manifest": "b"}]
    back = [{"relationship": "parentOf", "active_manifest": "a"}]
    claims = parse_manifests(store(MADE | {"ingredients": parent}, b=SHOT | {"ingredients": back}))
    assert claims["ingredients"] == 1
    for wrong in (None, 3, "x", [], [None], {"a": None}):
        found = dict.fromkeys(KEYS) | {"says": "nothing", "signed": False, "has_c2pa": True, "generator": [], "notes": []}
        odd = {
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [wrong, {"softwareAgent": wrong, "action": wrong}]}}]
        }
        found["c2pa"] = parse_manifests(store(odd | {"claim_generator_info": wrong or None, "claim_generator": wrong}))
        harmless(found)


def test_the_position_in_a_manifest_is_not_shown():
    told = MADE | {
        "assertions": [*MADE["assertions"], {"label": "stds.exif", "data": {"EXIF:GPSLatitude": "43.15205", "EXIF:Make": "X"}}]
    }
    claims = parse_manifests(store(told))
    assert claims["position"] and "43.15" not in json.dumps(claims)
