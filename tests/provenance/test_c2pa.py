import http.server
import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import features

from detector.provenance import TYPED, c2pa, read
from detector.provenance.c2pa import manifest_facts
from tests.saying import KEYS, MADE, PARAMETERS, SHOT, drawn, harmless, manifest, png, store, with_text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", *(["AVIF"] if features.check("avif") else [])])
def test_a_valid_manifest_of_an_unknown_signer(workshop, kind):
    found = read(workshop.sign(drawn(kind), MADE, f"image/{kind.lower()}"))
    claims = found["c2pa"]
    assert (claims["signature"], claims["trusted"], claims["problems"], found["notes"]) == ("valid", False, [], [])
    assert (claims["signer"], claims["issuer"], claims["generator"]) == ("Signer <b>of the test", "Drawn", "painter (Drawer 1)")
    assert (claims["ai_generated"], claims["edited_after"], claims["actions"]) == (True, False, ["created"])
    assert found["digital_source_type"]["source"] == "C2PA"
    assert (found["says"], found["signed"], found["because"]) == (
        "made by AI", True, "a C2PA manifest, validly signed, its signer not trusted",
    )  # fmt: skip
    text = " ".join(harmless(found))
    assert "signature valid" in text and "signer not trusted: no trust list was given" in text and "not of who signed it" in text


def test_a_signer_on_the_trust_list(workshop, tmp_path):
    signed = workshop.sign(drawn(), SHOT)
    found = read(signed, trust_list=workshop.root)
    assert (found["c2pa"]["trusted"], found["c2pa"]["ai_generated"], found["says"], found["signed"]) == (
        True,
        False,
        "camera",
        True,
    )
    assert any("on the trust list: this is evidence" in line for line in harmless(found))
    found = read(signed, trust_list=tmp_path / "nothing.pem")
    assert found["notes"] == ["the trust list could not be read: No such file or directory"] and not found["c2pa"]["trust_list"]
    type(workshop)(tmp_path)
    found = read(signed, trust_list=tmp_path / "root.pem")  # of somebody else
    assert (found["c2pa"]["trusted"], found["c2pa"]["signature"]) == (False, "valid")
    assert any("signer is not on the trust list" in line for line in harmless(found))


def test_what_counts_where_manifest_and_notes_disagree(workshop):
    signed = workshop.sign(with_text(parameters=PARAMETERS), SHOT)
    found = read(signed)
    assert (found["says"], found["signed"], found["c2pa"]["signature"]) == ("made by AI", False, "valid")
    found = read(signed, trust_list=workshop.root)
    assert (found["says"], found["signed"]) == ("camera", True)
    lines = harmless(found)
    assert "Stable Diffusion web UI" in lines[3] and lines[-1] == TYPED


def test_an_image_changed_after_signing(workshop):
    signed = bytearray(workshop.sign(drawn(), MADE))
    signed[signed.rindex(b"IDAT") + 8] ^= 1
    found = read(bytes(signed))
    claims = found["c2pa"]
    assert (claims["signature"], claims["changed_since_signing"], claims["edited_after"]) == ("invalid", True, True)
    assert claims["problems"] == ["the image was changed after it was signed"]
    assert (found["says"], found["signed"], found["because"]) == ("made by AI", False, "a C2PA manifest that is not valid")
    assert any("NOT valid" in line and "no evidence" in line for line in harmless(found))


def test_a_signature_that_does_not_fit(workshop):
    signed = workshop.sign(drawn(), MADE).replace(b"painter", b"camera!")
    found = read(signed)
    assert (found["c2pa"]["signature"], found["signed"]) == ("invalid", False)
    assert found["c2pa"]["problems"]


def test_an_edit_signed_on_top(workshop):
    first = workshop.sign(drawn(), SHOT)
    found = read(workshop.sign(first, manifest({"action": "c2pa.color_adjustments"}), parent=first))
    claims = found["c2pa"]
    assert (claims["signature"], claims["ingredients"], claims["edited_after"], claims["changed_since_signing"]) == (
        "valid",
        1,
        True,
        False,
    )
    assert claims["actions"] == ["created", "opened", "color_adjustments"]
    assert (found["says"], found["signed"]) == ("edited", True)
    assert any("edited (color_adjustments); 1 ingredient" in line for line in harmless(found))


def test_a_part_made_by_ai(workshop):
    part = workshop.sign(drawn(), MADE)
    found = read(workshop.sign(drawn(), SHOT, part=part))
    assert (found["c2pa"]["ai_generated"], found["c2pa"]["ai_edited"], found["says"], found["signed"]) == (
        None,
        True,
        "edited",
        True,
    )


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


def test_many_at_once(workshop):
    signed = [workshop.sign(drawn(), MADE), workshop.sign(drawn("JPEG"), SHOT, "image/jpeg"), drawn()] * 30
    with ThreadPoolExecutor(8) as pool:
        says = [found["says"] for found in pool.map(read, signed)]
    assert says == ["made by AI", "camera", "nothing"] * 30


def test_damaged_manifests(workshop):
    signed = workshop.sign(drawn(), MADE)
    start, whole = signed.index(b"caBX"), read(signed)
    for place in range(start, start + 4000, 7):
        damaged = signed[:place] + bytes([signed[place] ^ 0xFF]) + signed[place + 1 :]
        found = read(damaged)
        harmless(found)
        assert not found["signed"] or found == whole  # not all that holds the manifest together is signed, all that it says is


def test_without_the_package_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # import c2pa raises ImportError
    data = png((b"caBX", bytes(100)), (b"tEXt", b"parameters\0" + PARAMETERS.encode()))
    found = read(data)
    assert found["has_c2pa"] and found["c2pa"] is None and found["says"] == "made by AI"
    assert found["notes"] == [f"it holds a C2PA manifest, not looked at: the package c2pa-python is not installed; {c2pa.INSTALL}"]
    assert any("pip install -r requirements-app.txt" in line for line in harmless(found))
    lines = harmless(read(png((b"caBX", bytes(100)))))
    assert len(lines) == 1 and "not installed" in lines[0]


@pytest.mark.parametrize(("failure", "success", "problem", "changed"), [
    (["assertion.dataHash.mismatch"], [], c2pa.CHANGED, True),
    (["assertion.dataHash.mismatch"], ["assertion.dataHash.match"], c2pa.UNCOVERED, False),
    (["claimSignature.mismatch", "signingCredential.untrusted"], [], "the signature does not fit the manifest", False),
    (["some.new.code"], [], "some.new.code:", False),
])  # fmt: skip
def test_problems_in_words(failure, success, problem, changed):
    claims = manifest_facts(store(MADE, "Invalid", failure, success))
    assert (claims["problems"], claims["changed_since_signing"], claims["signature"]) == ([problem], changed, "invalid")


def test_manifests_in_a_circle_and_of_wrong_types():
    parent = [{"relationship": "parentOf", "active_manifest": "b"}]
    back = [{"relationship": "parentOf", "active_manifest": "a"}]
    claims = manifest_facts(store(MADE | {"ingredients": parent}, b=SHOT | {"ingredients": back}))
    assert claims["ingredients"] == 1
    for wrong in (None, 3, "x", [], [None], {"a": None}):
        found = dict.fromkeys(KEYS) | {"says": "nothing", "signed": False, "has_c2pa": True, "generator": [], "notes": []}
        odd = {
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [wrong, {"softwareAgent": wrong, "action": wrong}]}}]
        }
        found["c2pa"] = manifest_facts(store(odd | {"claim_generator_info": wrong or None, "claim_generator": wrong}))
        harmless(found)


def test_the_position_in_a_manifest_is_not_shown():
    told = MADE | {
        "assertions": [*MADE["assertions"], {"label": "stds.exif", "data": {"EXIF:GPSLatitude": "43.15205", "EXIF:Make": "X"}}]
    }
    claims = manifest_facts(store(told))
    assert claims["position"] and "43.15" not in json.dumps(claims)
