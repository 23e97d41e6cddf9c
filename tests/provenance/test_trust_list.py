import os

import pytest

from detector.console import InputError
from detector.provenance import read, trust_list
from detector.provenance.trust_list import check_trust_list, remember_trust_list, remembered_trust_list, trust_list_date
from tests.sample_files import SHOT, drawn


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The place of the remembered list, in a folder that does not exist yet."""
    path = tmp_path / "configuration" / "list.pem"
    monkeypatch.setattr(trust_list, "_stored", lambda: path)
    return path


def test_a_trust_list_is_remembered_with_its_date(workshop, stored):
    assert remembered_trust_list() is None
    os.utime(workshop.root, (1_700_000_000, 1_700_000_000))
    assert remember_trust_list(workshop.root) == stored == remembered_trust_list()
    assert trust_list_date(stored) == "2023-11-14" and [*stored.parent.iterdir()] == [stored]
    assert remember_trust_list(stored) == stored and stored.read_bytes() == workshop.root.read_bytes()
    found = read(workshop.sign(drawn(), SHOT), trust_list=remembered_trust_list())
    assert found["c2pa"]["trusted"] and found["c2pa"]["trust_list"]


def test_a_list_that_cannot_be_stored_serves_this_run(workshop, stored, capsys):
    stored.parent.write_text("a file where the folder should be")
    assert remember_trust_list(workshop.root) == workshop.root
    assert str(stored) in capsys.readouterr().err


def test_what_is_no_trust_list_is_refused(workshop, stored, tmp_path, monkeypatch):
    def refused(path):
        with pytest.raises(InputError, match="trust list") as caught:
            remember_trust_list(path)
        assert str(path) in str(caught.value) and not stored.exists()
        return str(caught.value)

    assert refused(tmp_path / "no.pem").endswith("found no such file; check the path")
    assert "a folder" in refused(tmp_path)
    whole, other = workshop.root.read_text("utf-8"), tmp_path / "other.pem"
    damaged = whole.replace("MI", "xx", 1)
    for content in ("", "no certificate", whole[:400], damaged, whole + damaged, f"{whole}-----BEGIN CERTIFICATE-----\n"):
        other.write_text(content, "utf-8")
        refused(other)
    other.write_text(f"Größe\n{whole}{whole}", "utf-8")
    check_trust_list(other)
    monkeypatch.setattr(trust_list, "find_spec", lambda name: None)
    assert "pip install -r requirements-app.txt" in refused(workshop.root)
