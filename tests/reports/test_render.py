"""The frame of every report: escaping, one file, no missing values."""

import jinja2
import pytest

from detector.reports.render import render


def test_a_page_escapes_what_it_shows_and_needs_no_other_file():
    page = render("base.html", title="<b>\x1b\udcff&\"'", tool="x.py")
    assert r"<title>&lt;b&gt;\x1b\udcff&amp;&#34;&#39;</title>" in page
    assert "prefers-color-scheme: dark" in page and "http" not in page and "<link" not in page


def test_a_missing_value_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render("base.html", title="no tool")
