"""HTML of the page, of its results and of evidence reports, from the templates in templates/.

Names and texts of files come from strangers: the templates escape everything and show control characters as escape sequences.
"""

import csv
import functools
import hashlib
import io
from collections import Counter
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from detector import __version__, files
from detector.images.guard import UnreadableFile, read_source
from detector.images.pixels import read_image
from detector.inference import attribution
from detector.inference import predictor as inference
from detector.provenance import summarise
from detector.provenance.trust_list import trust_list_date
from detector.reports.render import data_uri, environment, image_uri

HERE = Path(__file__).parent
PREVIEW, THUMBNAIL = 640, 96  # longer side of a shown image, in pixels
MAX_HEAT_MAPS = 24  # in one request or report
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula
CONCLUSIONS = {  # conclusion -> (style class, mark, headline, explanation); the marks differ in shape, not in colour alone
    "AI-generated": ("fake", "▲", "AI-generated", ""),
    "AI-edited": ("fake", "▲", "Edited with AI", ""),
    "Fake": ("fake", "▲", "Fake", "looks AI-generated"),
    "camera original": ("real", "●", "Camera original", ""),
    "Real": ("real", "●", "Real", "looks like a photograph"),
    "uncertain": ("uncertain", "◆", "Uncertain", ""),
    None: ("unread", "✕", "Unreadable", ""),
}


@functools.cache
def _template(name):
    shared = environment(HERE / "templates")
    shared.filters |= {"percent": percent, "about": inference.about}
    shared.globals.update(conclusions=CONCLUSIONS, version=__version__)
    return shared.get_template(name)


def page(predictor, max_images, max_file):
    """Return the page, before any image was given."""
    return _template("page.html").render(
        detectors=predictor.detectors, max_images=max_images, max_file=max_file, max_heat_maps=MAX_HEAT_MAPS
    )


def results(predictor, rows, sources, heat=False, force=False):
    """Return what the page shows for some images: a card for one, a table for several.

    Args:
        rows: list, as Predictor.predict yields them.
        sources: the image files, as Predictor.predict takes them.
        heat: whether heat maps are wanted for several images; the page requests each by itself.
        force: as it was given to Predictor.predict.
    """
    longer = PREVIEW if len(rows) == 1 else THUMBNAIL
    views = [_view(predictor, row, source, longer, force) for row, source in zip(rows, sources, strict=True)]
    heat_maps = MAX_HEAT_MAPS if heat or len(rows) == 1 else 0
    for view in views:
        view["wants_heat_map"] = view["shows_score"] and heat_maps > 0
        heat_maps -= view["shows_score"]
    return _template("results.html").render(views=views, counts=count(rows), detectors=_used(predictor, rows), csv=csv_link(rows))


def report(predictor, rows, sources, force=False, threshold=None, progress=lambda views: views):
    """Return an evidence report: one self-contained page, without scripts or links to other files.

    Args:
        rows, sources, force: as for `results`.
        threshold: as it was given to Predictor.predict.
        progress: wraps the iterable of images; making a heat map takes a while.
    """
    views, heat_maps = [], MAX_HEAT_MAPS
    for row, source in progress(list(zip(rows, sources, strict=True))):
        view = _view(predictor, row, source, PREVIEW // 2, force, threshold)
        view |= {"sha256": _sha256(source), "heat": None}
        if view["shows_score"] and heat_maps:
            heat_maps -= 1
            view["heat"] = image_uri(attribution.explain_file(predictor.find_detector(row["detector"]), source), PREVIEW)
        views.append(view)
    detectors = [{"detector": one, "sha256": files.digest_of(one.path)} for one in _used(predictor, rows)]
    return _template("report.html").render(
        views=views, counts=count(rows), detectors=detectors, max_heat_maps=MAX_HEAT_MAPS,
        style=(HERE / "static" / "style.css").read_text("utf-8"),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        trust_list=predictor.trust_list and trust_list_date(predictor.trust_list),
    )  # fmt: skip


def _view(predictor, row, source, longer, force, threshold=None):
    """Return what the templates need to show a row, with a preview of at most `longer` pixels."""
    thresholds = {"fake": threshold, "real": threshold}
    if threshold is None and row["detector"]:
        thresholds = predictor.find_detector(row["detector"]).metadata["thresholds"]
    found = inference.provenance_to_show(row)
    return {
        "row": row,
        "shows_score": row["p_fake"] is not None and (force or not row["gated"]),
        "thresholds": thresholds,
        "provenance": summarise(found) if found else [],
        "claim": inference.claim(found) if found else None,
        "preview": None if row["error"] else image_uri(read_image(source), longer),
    }


def _used(predictor, rows):
    """Return the detectors that the rows name."""
    return [predictor.find_detector(name) for name in dict.fromkeys(row["detector"] for row in rows) if name]


def count(rows):
    """Return [(conclusion, number of rows)], without those that do not occur."""
    counts = Counter(row["conclusion"] for row in rows)
    return [(name, counts[name]) for name in CONCLUSIONS if counts[name]]


def percent(fraction):
    """Return a probability as HTML; one that is not quite 0 or 1 does not look as if it were."""
    if fraction < 0.001:
        return Markup("below 0.1&nbsp;%")
    if fraction > 0.999:
        return Markup("above 99.9&nbsp;%" if fraction <= 1 else "never")  # a threshold above 1 is one that no image reaches
    return Markup(f"{100 * fraction:.1f}&nbsp;%")


def _sha256(source):
    try:
        return hashlib.sha256(read_source(source)).hexdigest()
    except (OSError, UnreadableFile):
        return None


def csv_link(rows):
    """Return the rows as a CSV in a data URI, so that the server keeps no file of it."""
    file = io.StringIO()
    writer = csv.DictWriter(file, inference.COLUMNS)
    writer.writeheader()
    for row in rows:
        lines = summarise(row["provenance"]) if row["provenance"] else []
        writer.writerow({name: _cell(value) for name, value in (row | {"provenance": "; ".join(lines)}).items()})
    return data_uri(file.getvalue().encode("utf-8", "backslashreplace"), "csv;charset=utf-8", "text")


def _cell(value):
    """Return a cell that a spreadsheet shows and does not run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
