"""The HTML page of a data audit."""

import functools
import os
import random

from detector import files
from detector.console import InputError, plural
from detector.data import tree as data_tree
from detector.reports.render import image_uri, render

TILE = 112  # longer side of a thumbnail in CSS pixels, as in templates/audit.css
SHEET = 40  # images on the contact sheet of each split and class
SHOWN = 36  # groups or pairs shown of each kind; audit.json has them all
LISTED = 60  # paths listed of each kind
IN_GROUP = 4  # images shown of a group


def render_audit(report, paths, places):
    """Return the page of an audit report, a dict as audit.json holds it, as HTML text.

    The contact sheets (none with --quick) show some of the `paths` of all files, with the (split, class) `places` of each; the
    same ones each time.
    """
    clean = "no content in two splits or under both labels"
    clean += ", no shortcut in the file features" if report["shortcut"] else ""
    lines = [("finding", line) for line in report["findings"]] or [("clean", clean)]
    lines += [("warning", line) for line in report["warnings"]]
    sheets = {} if report["quick"] else choose_sheets(paths, places)
    odd = {kind: found for kind, found in (report["odd"] or {}).items() if found}
    groups = duplicate_sections(report, dict(zip(paths, places, strict=True)))
    shown = [path for section in groups for card in section["cards"] for path in card["paths"]]
    shown += [path for sheet in sheets.values() for path in sheet]
    shown += [path for found in odd.values() for path in found[:SHOWN]]
    shown = list(dict.fromkeys(shown))
    thumbnails = files.parallel(functools.partial(thumbnail, report["folder"]), shown, chunk=64)
    return render(
        "audit.html", tool="data_audit.py", title=f"Audit of {report['folder']}", report=report, lines=lines,
        counts=[[split, *(f"{classes.get(name, 0):,}" for name in data_tree.CLASSES), f"{sum(classes.values()):,}"]
                for split, classes in report["counts"].items()],
        fewest=30, **feature_rows(report["shortcut"]), groups=groups, odd=odd, sheets=sheets,
        odd_paths={kind: [(path, None) for path in found[:LISTED]] for kind, found in odd.items()},
        unreadable=[(entry["path"], entry["reason"]) for entry in report["unreadable"][:LISTED]],
        shown=SHOWN, thumbnails=dict(zip(shown, thumbnails, strict=True)),
    )  # fmt: skip


def choose_sheets(paths, places, seed=0):
    """Return {(split, class): [paths]}: at most SHEET random images of each."""
    cells = {}
    for path, place in zip(paths, places, strict=True):
        cells.setdefault(place, []).append(path)
    return {place: random.Random(seed).sample(found, min(SHEET, len(found))) for place, found in cells.items()}


def thumbnail(root, path):
    """Return {uri, small} of an image: a data URI, and whether the image is no larger than its tile; None if it is unreadable."""
    from detector.images import pixels

    try:
        image = pixels.read_image(os.path.join(root, path))
    except (InputError, OSError):
        return None
    return {"uri": image_uri(image, 2 * TILE, TILE), "small": max(image.shape) <= TILE}


def feature_rows(shortcut):
    """Return {features, constant} of the metadata-only baseline: the rows of its table, and the features that never differ."""
    rows = shortcut["facts"] if shortcut else []
    varying = [row for row in rows if row["drop"] or row["alone"] != 0.5]
    return {
        "features": [row | {"bar": round(100 * max(0, min(1, 2 * row["alone"] - 1)))} for row in varying],
        "constant": [row["fact"] for row in rows if row not in varying],
    }


def duplicate_sections(report, place_of):
    """Return the sections of identical, augmented and near-duplicate images: [{title, total, cards}]."""
    made = [*report["augmented"]["leaks"], *([path] for path in report["augmented"]["held_out"])]
    sections = [_section("Identical files", report["identical"]["groups"], place_of)]
    if made:
        sections.append(_section("Leaks of augmented images", made, place_of))
    if report["near"]:
        pairs = report["near"]["found"]
        captions = [f"correlation {pair['likeness']:.3f}, {plural(pair['bits'], 'bit')} apart" for pair in pairs[:SHOWN]]
        sections.append(_section("Near-duplicates", [pair["paths"] for pair in pairs], place_of, captions))
    return sections


def _section(title, groups, place_of, captions=None):
    cards = []
    for i, group in enumerate(groups[:SHOWN]):
        leak = len(group) == 1 or len({place_of[path] for path in group}) > 1  # another split or another label
        cards.append({
            "paths": group[:IN_GROUP], "hidden": max(0, len(group) - IN_GROUP), "leak": leak,
            "caption": captions[i] if captions else None,
        })  # fmt: skip
    return {"title": title, "total": len(groups), "cards": cards}
