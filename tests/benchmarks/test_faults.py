"""The benchmark that kills stages: how it reaches the kills that it was asked for, and what it says where it does not."""

import random
import re

import pytest

from benchmarks import faults


@pytest.mark.parametrize("seconds", [1.0, 0.05])
def test_all_kills_are_reached_though_the_stage_is_faster_than_measured(seconds):
    moments = ([], [])

    def once(moment, changing):
        moments[changing].append(moment)
        return moment < seconds, False, True

    done = faults.kill_until(20, (1.0, 0.9), random.Random(0), once)
    assert sum(killed for killed, *_ in done) == 20
    assert len(done) < 5 * 20
    assert all(len(some) >= 10 and max(some[-5:]) > 0.4 * seconds for some in moments), "all of the run is tried to its end"


def test_what_is_never_reached_ends(capsys):
    done = faults.kill_until(2, (1.0, 1.0), random.Random(0), lambda moment, changing: (False, False, True))
    assert len(done) == 2 * faults.TRIALS


def test_too_few_kills_are_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faults, "make_stock", lambda *_: None)
    monkeypatch.setattr(faults, "run_undisturbed", lambda *_: (1.0, 0.5, "before", "wanted"))
    monkeypatch.setattr(faults, "trial", lambda *_: (False, False, True))
    with pytest.raises(SystemExit) as end:
        faults.main([str(tmp_path), "--work", str(tmp_path), "--kills", "2", "--only", "zip"])
    assert end.value.code == "error: zip: 0 of 2 kills hit before its end"
    assert re.search(r"^zip +1\.00 +0 +0 +(\d+) of \1$", capsys.readouterr().out, re.MULTILINE)
