import base64
import csv
import io

import pytest

from detector.inference.predictor import COLUMNS
from detector.web import render
from tests.conftest import draw
from tests.sample_files import PARAMETERS, encoded, with_text
from tests.web.conftest import HOSTILE

EVIL = "<script>alert(1)</script>\x07\"'"


def test_texts_of_strangers_are_shown_and_not_run(predictor):
    sources = [encoded(draw(1)), b"no image", with_text(parameters=f"{EVIL}\nSteps: 20, Sampler: {EVIL}, Model: {EVIL}, Seed: 1")]
    rows = [row | {"note": EVIL} for row in predictor.predict(sources, names=[EVIL, HOSTILE, EVIL], force=True)]
    pages = [render.results(predictor, [row], [source], force=True) for row, source in zip(rows, sources, strict=True)]
    pages += [render.results(predictor, rows, sources, force=True), render.report(predictor, rows, sources, force=True)]
    for html in pages:
        assert "<script" not in html and "<img src=x" not in html and "\x07" not in html
    assert all("&lt;script&gt;alert(1)&lt;/script&gt;\\x07" in html for html in (pages[0], *pages[2:]))


def test_the_conclusion_comes_first_and_the_verdict_stays_the_detectors(predictor):
    source = with_text(parameters=PARAMETERS)
    (row,) = predictor.predict([source], force=True)
    for html in (render.results(predictor, [row], [source], force=True), render.report(predictor, [row], [source], force=True)):
        assert html.index("AI-generated") < html.index("declared by the file, unsigned") < html.index("Probability of Fake")
        assert f"the detector alone: {row['verdict']}" in html


@pytest.mark.parametrize("fraction, text", [
    (0, "below 0.1 %"), (0.0009, "below 0.1 %"), (0.001, "0.1 %"), (0.5, "50.0 %"), (0.999, "99.9 %"), (0.9995, "above 99.9 %"),
    (1, "above 99.9 %"), (2, "never"),
])  # fmt: skip
def test_a_probability_never_looks_more_certain_than_it_is(fraction, text):
    assert render.percent(fraction).replace("&nbsp;", " ") == text


def test_an_image_that_cannot_be_judged_shows_no_score_unless_forced(predictor):
    source = encoded(draw(4, (300, 200)))
    for force in (False, True):
        (row,) = predictor.predict([source], force=force)
        html = render.results(predictor, [row], [source], force=force)
        assert ("Probability of Fake" in html, "data-heat-map" in html, 'id="force-button"' in html) == (force, force, not force)
        assert row["note"][1:] in html


def test_heat_maps_are_for_one_image_or_when_wanted(predictor, monkeypatch):
    monkeypatch.setattr(render, "MAX_HEAT_MAPS", 2)
    sources = [encoded(draw(i)) for i in range(3)]
    rows = list(predictor.predict(sources))
    assert render.results(predictor, rows, sources).count("data-heat-map") == 0
    assert render.results(predictor, rows, sources, heat=True).count("data-heat-map") == 2
    assert render.report(predictor, rows, sources).count('class="heat"') == 2


def test_a_report_holds_what_identifies_an_image(predictor, tmp_path):
    import hashlib

    path = tmp_path / "a.png"
    draw(1).save(path)
    content = path.read_bytes()
    sources = [path, content, io.BytesIO(content)]
    rows = list(predictor.predict(sources))
    html = render.report(predictor, rows, sources, threshold=0.25)
    assert html.count(hashlib.sha256(content).hexdigest()) == 3
    assert hashlib.sha256(predictor.detectors[0].path.read_bytes()).hexdigest() in html
    assert render.__version__ in html and "Fake from 25.0&nbsp;%" in html
    assert 'src="data:' in html and "http://" not in html and "https://" not in html


def test_a_spreadsheet_shows_the_csv_and_runs_nothing(predictor):
    names = ["=1+1.png", "+1", "-1", "@x", "a,b.png", 'a"b.png', "ü.png", "=HYPERLINK(1)"]
    rows = list(predictor.predict([encoded(draw(1))] * len(names), names=names))
    text = base64.b64decode(render.csv_link(rows).removeprefix("data:text/csv;charset=utf-8;base64,")).decode("utf-8")
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in found] == ["'=1+1.png", "'+1", "'-1", "'@x", "a,b.png", 'a"b.png', "ü.png", "'=HYPERLINK(1)"]
    assert {row["p_fake"] for row in found} == {str(rows[0]["p_fake"])} and list(found[0]) == COLUMNS


def test_the_page_offers_several_detectors(predictor):
    from detector.inference import Predictor

    path = predictor.detectors[0].path
    assert 'name="detector"' not in render.page(predictor, 200, 1000)
    html = render.page(Predictor([path, path]), 200, 1000)
    assert html.count('name="detector"') == 3 and f'value="{path}"' in html
