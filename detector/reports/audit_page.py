"""The audit's page: one HTML file that holds its images and needs nothing from elsewhere."""
import base64
import functools
import io
import os
import random
from html import escape
from string import Template

from detector import files
from detector.console import InputError, plural, printable
from detector.data import tree as data_tree
from detector.data.duplicates import is_leak

TILE = 112  # longer side of a shown image in CSS pixels
SHEET = 40  # images on the contact sheet of each split and class
SHOWN = 36  # groups or pairs shown of each kind; audit.json has them all
LISTED = 60  # paths listed of each kind
STYLE = """\
:root { color-scheme: light dark; --text: #1c1d20; --soft: #62666d; --back: #fff; --card: #f4f5f7; --line: #dcdfe4;
  --bad: #b3261e; --warn: #8a5a00; --good: #1d7a3e; --bar: #4a78c8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e7ea; --soft: #a0a5ae; --back: #16171a; --card: #202226; --line: #363a41;
  --bad: #ff8a80; --warn: #f0c060; --good: #7bd69a; --bar: #7aa5ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--back); }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; } p { margin: .25rem 0 .75rem; max-width: 52rem; }
.soft, figcaption, th { color: var(--soft); }
.bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
ul.verdict { list-style: none; padding: .75rem 1rem; margin: 1rem 0; background: var(--card); border-radius: .5rem; }
ul.verdict li { padding: .15rem 0 .15rem 5.5rem; text-indent: -5.5rem; }
ul.verdict b { display: inline-block; width: 5.5rem; font-weight: 600; text-indent: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; width: 7rem; height: .5rem; background: var(--card); border-radius: .25rem; margin-left: .5rem; }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: .25rem; }
.sheet { display: flex; flex-wrap: wrap; gap: 4px; } .sheet figure { margin: 0; } .sheet figcaption { display: none; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .75rem; }
.pair { background: var(--card); border-radius: .5rem; padding: .6rem; } .pair.leak { outline: 2px solid var(--bad); }
.pair > div { display: flex; flex-wrap: wrap; gap: .5rem; } .pair figure { margin: 0; flex: 1 1 7rem; min-width: 0; }
figcaption { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; font-size: .85em; } .paths { padding-left: 1.25rem; } details { margin: .5rem 0; }
"""
PAGE = Template(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="data_audit.py">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit of $folder</title>
<style>
{STYLE}img, .none {{ display: block; width: {TILE}px; height: {TILE}px; object-fit: contain; background: var(--card);
  border-radius: 3px; }}
img.small {{ image-rendering: pixelated; }} .none {{ font-size: .75rem; padding: .5rem; color: var(--soft); }}
</style></head><body>
<h1>Audit of $folder</h1>
<p class="soft">$images$quick</p>
<ul class="verdict">$verdict</ul>
<h2>Images</h2>
<div class="wide"><table>$counts</table></div>
$sections
</body></html>
""")


def render(report, paths, places):
    """Return the page of an audit report as text.

    Args:
        report: what audit.json holds.
        paths, places: every file and its (split, class), for the contact sheets (none with --quick); the same images are drawn
            each time.
    """
    sheets = {} if report["quick"] else choose_sheets(paths, places)
    shown = dict.fromkeys(path for sheet in sheets.values() for path in sheet)
    shown |= dict.fromkeys(path for group in report["identical"]["groups"][:SHOWN] for path in group[:4])
    made = [*report["augmented"]["leaks"], *([path] for path in report["augmented"]["held_out"])]
    shown |= dict.fromkeys(path for group in made[:SHOWN] for path in group)
    near = report["near"]["found"][:SHOWN] if report["near"] else []
    shown |= dict.fromkeys(path for pair in near for path in pair["paths"])
    odd = {kind: found for kind, found in (report["odd"] or {}).items() if found}
    shown |= dict.fromkeys(path for found in odd.values() for path in found[:SHOWN])
    pictures = files.parallel(functools.partial(picture, report["folder"]), list(shown), chunk=64)
    figures = {path: figure(path, image) for path, image in zip(shown, pictures, strict=True)}
    place_of = dict(zip(paths, places, strict=True))
    sections = [
        facts_section(report["shortcut"], report["quick"]),
        pair_section("Identical files", IDENTICAL, report["identical"]["groups"], figures, place_of),
        pair_section("Augmented images that leak", MADE, made, figures, place_of) if made else "",
        near_section(report["near"], figures, place_of),
        odd_section(report, odd, figures),
        *(f"<h2>{name}, {escape(split)}</h2><div class=sheet>{''.join(figures[path] for path in sheet)}</div>"
          for (split, name), sheet in sheets.items()),
    ]  # fmt: skip
    return PAGE.substitute(
        folder=text(report["folder"]), images=plural(report["images"], "file"),
        quick=", hashed only: run without --quick to look at the pictures" if report["quick"] else "",
        verdict=verdict(report), counts=counts_rows(report["counts"]), sections="\n".join(sections),
    )  # fmt: skip

IDENTICAL = "The same bytes, found by SHA-256. Outlined in red: in two splits, or under both labels."
MADE = (
    "Augmented images in train that were made from an image in validation or test, each with its original, and augmented images "
    "in validation or test themselves. Their names tell."
)
NEAR = (
    "Different files that show the same picture: scaled, saved again, brightened, or one frame next to the other. "
    "Found by a perceptual hash, confirmed by the correlation of small colour pictures; of identical files the "
    "first stands for all. Outlined in red: in two splits, or under both labels."
)


def choose_sheets(paths, places, seed=0):
    """Return {(split, class): [paths]}: at most SHEET random images of each."""
    cells = {}
    for path, place in zip(paths, places, strict=True):
        cells.setdefault(place, []).append(path)
    return {place: random.Random(seed).sample(found, min(SHEET, len(found))) for place, found in cells.items()}


def picture(root, path):
    """Return (data URI, whether it is smaller than its tile) of an image's thumbnail, or None where it cannot be read."""
    from PIL import Image

    from detector.images import pixels

    try:
        image = Image.fromarray(pixels.read_image(os.path.join(root, path)))
    except (InputError, OSError):
        return None
    small = max(image.size) <= TILE
    image.thumbnail((2 * TILE, 2 * TILE))
    data, kind = io.BytesIO(), "PNG" if small else "JPEG"  # small images are shown pixel by pixel
    image.save(data, kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}", small


def text(value):
    """Return a string, such as the name of a file from elsewhere, as harmless HTML."""
    return escape(printable(value))


def figure(path, image):
    """Return an image with its path below; `image` as `picture` returns it."""
    name = text(path)
    if image is None:
        shown = "<div class=none>cannot be read</div>"
    else:
        uri, small = image
        shown = f'<img src="{uri}" alt="{name}" title="{name}"{" class=small" if small else ""}>'
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def verdict(report):
    """Return the findings and warnings as list items."""
    lines = [f"<li><b class=bad>finding</b> {text(line)}" for line in report["findings"]]
    if not lines:
        looked = ", no shortcut in the file facts" if report["shortcut"] else ""
        lines = [f"<li><b class=good>clean</b> no content in two splits or under both labels{looked}"]
    return "".join(lines + [f"<li><b class=warn>warning</b> {text(line)}" for line in report["warnings"]])


def counts_rows(counts):
    """Return the rows of the table of counts {split: {class: n}}."""
    rows = ["<tr><th><th>Fake<th>Real<th>total"]
    for split, classes in counts.items():
        numbers = [classes[name] for name in data_tree.CLASSES]
        rows.append(f"<tr><td>{escape(split)}" + "".join(f"<td>{n:,}" for n in [*numbers, sum(numbers)]))
    return "".join(rows)


def facts_section(shortcut, quick):
    """Return the section on what the files' facts give away."""
    if shortcut is None:
        reason = "Not looked at with --quick." if quick else "Not judged: fewer than 30 different images in a class."
        return f"<h2>What the files give away</h2><p class=soft>{reason}"
    low, high = shortcut["interval"]
    varying = [row for row in shortcut["facts"] if row["drop"] or row["alone"] != 0.5]
    constant = ", ".join(row["fact"] for row in shortcut["facts"] if row not in varying)
    rows = "".join(
        f"<tr><td>{row['fact']}<td>{text(row['Fake'])}<td>{text(row['Real'])}<td>{max(0, row['drop']):.3f}<td>{row['alone']:.3f}"
        f"<span class=bar><i style='width:{max(0, min(1, 2 * row['alone'] - 1)):.0%}'></i></span>"
        for row in varying
    )
    return (
        f"<h2>What the files give away</h2><p>From file facts alone, without a pixel, a random forest tells Fake from Real with "
        f"AUC <b>{shortcut['auc']:.3f}</b>, 95 % interval {low:.3f} to {high:.3f}, cross-validated on {shortcut['images']:,} "
        "images (0.5 is chance). The table says what the AUC loses when a fact is shuffled, and the AUC of each fact by itself.</p>"
        f"<div class=wide><table><tr><th>fact<th>Fake<th>Real<th>lost when shuffled<th>alone{rows}</table></div>"
        + (f"<p class=soft>The same in all files: {constant}." if constant else "")
    )


def pair_section(title, explanation, groups, figures, place_of, captions=None):
    """Return a section that shows groups of paths side by side, the first SHOWN of them."""
    if not groups:
        return f"<h2>{title}</h2><p class=good>None."
    cards = []
    for i, group in enumerate(groups[:SHOWN]):
        (a, label), *others = {place_of[path] for path in group}
        leak = len(group) == 1 or any(is_leak(((a, split), label != name)) for split, name in others)
        more = f"<figcaption>and {len(group) - 4:,} more</figcaption>" if len(group) > 4 else ""
        caption = f"<figcaption>{captions[i]}</figcaption>" if captions else ""
        images = "".join(figures[path] for path in group[:4])
        cards.append(f"<div class='pair{' leak' if leak else ''}'><div>{images}</div>{more}{caption}</div>")
    number = f"{SHOWN} of {len(groups):,} are shown; audit.json lists all." if len(groups) > SHOWN else ""
    return f"<h2>{title}</h2><p>{explanation} <span class=soft>{number}</span></p><div class=pairs>{''.join(cards)}</div>"


def near_section(near, figures, place_of):
    """Return the section on near-duplicates."""
    if near is None:
        return ""
    groups = [pair["paths"] for pair in near["found"]]
    captions = [f"likeness {pair['likeness']:.3f}, {plural(pair['bits'], 'bit')} apart" for pair in near["found"][:SHOWN]]
    return pair_section("Nearly identical images", NEAR, groups, figures, place_of, captions)


def odd_section(report, odd, figures):
    """Return the section on unreadable and odd files."""
    parts = []
    if report["unreadable"]:
        items = "".join(
            f"<li><code>{text(entry['path'])}</code> <span class=soft>{text(entry['reason'])}</span>"
            for entry in report["unreadable"][:LISTED]
        )
        parts.append(f"<h3>{plural(len(report['unreadable']), 'file')} unreadable</h3><ul class=paths>{items}</ul>")
    for kind, found in odd.items():
        images = "".join(figures[path] for path in found[:SHOWN])
        items = "".join(f"<li><code>{text(path)}</code>" for path in found[:LISTED])
        parts.append(
            f"<h3>{plural(len(found), 'image')} {kind}</h3><div class=sheet>{images}</div>"
            f"<details><summary>paths</summary><ul class=paths>{items}</ul></details>"
        )
    return "<h2>Odd files</h2>" + ("".join(parts) or "<p class=good>None.")
