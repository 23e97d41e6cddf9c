"""The results tables of the documentation."""

import numpy as np

from benchmarks import results
from detector.evaluation.metrics import group_metrics
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def test_the_tables_of_the_documentation_are_those_of_the_reports():
    tables = results.make_tables(ROOT / "docs" / "results")
    cifake = next(iter(tables.values())).splitlines()
    assert cifake[2].startswith("| **compact** | 9") and len(cifake) >= 2 + len(results.PUBLISHED)
    texts = [page.read_text("utf-8") for page in PAGES]
    assert any(begin in text for text in texts for begin in tables)
    for page, text in zip(PAGES, texts, strict=True):
        assert results.replaced(text, tables) == text, page


def test_only_the_table_between_the_markers_is_replaced():
    begin, other = "<!-- results -->", "<!-- other -->"
    page = f"before {begin}\nold\n{results.END} between {other}\nold\n{results.END} after"
    assert results.replaced(page, {begin: "new", other: "| newer |"}) == (
        f"before {begin}\nnew\n{results.END} between {other}\n| newer |\n{results.END} after"
    )
    assert results.replaced("no table", {begin: "new"}) == "no table"


def test_the_table_of_photos_has_a_row_for_each_tier():
    groups, is_fake = np.repeat(["a", "b"], 4), np.tile([True, True, False, False], 2)
    p_fake = np.array([0.9, 0.8, 0.1, 0.2, 0.9, 0.4, 0.6, 0.1])
    summary = group_metrics(groups, is_fake, p_fake, {"fake": 0.55, "real": 0.3}, min_images=2)
    tiers = {tier: {"group_summary": summary} for tier in ("as delivered", "web")}
    rows = results.photo_table({"photo": {"splits": {"all": {"groups": [1, 2], "tiers": tiers}}}}).splitlines()
    assert rows[2] == "| 2 sources | as delivered | 0.875 (2 sources) | 0.750 (b) | 75.0 | 25.0 | 50.0 (b: 1 of 2) | 75.0 | 12.5 |"
    assert rows[3].startswith("| 2 sources | web |") and len(rows) == 4
