"""What the page shows, as HTML: the verdict first, then why, then what the file says of itself, then what the detector knows.

Names and texts of files come from strangers: everything that goes into the HTML goes through `text`.
"""
import base64
import csv
import io
from html import escape

from detector.console import plural, printable
from detector.inference.predictor import claim

PREVIEW, THUMBNAIL = 640, 96  # longer side of a shown image, in pixels
SMALL = 64  # images up to this are shown enlarged, pixel by pixel
HEADLINES = {
    "Fake": ("Fake", "it looks generated"),
    "Real": ("Real", "it looks photographed"),
    "uncertain": ("Uncertain", "there is no saying"),
    None: ("Not judged", "the file could not be read"),
}
MEANINGS = {
    "Fake": "The score is one that hardly any photograph gets.",
    "Real": "The score is one that hardly any generated image gets.",
    "uncertain": "The score lies between, or the image is unlike all that the detector has seen.",
}
MARKS = {"Fake": "▲", "Real": "●", "uncertain": "◆", None: "✕"}  # the verdicts differ in shape, not in colour alone
MAP_TOLD = (
    "Orange speaks for Fake, blue for Real, grey for neither. It shows where the score comes from, not what was changed in the "
    "image; where one colour lies over all of it, no single place decided."
)
PENDING = object()  # a heat map that is being made
WIDE = ' style="grid-column: 1 / -1"'
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a cell that begins so for a formula
INTRODUCTION = """\
<header class="rf"><h1>Real or Fake?</h1>
<p>Was this picture photographed, or made by an image generator? Drop it below: you get a verdict, where in the picture it comes
from, and what the file says of itself. An image is judged where this page is served, and is not kept.</p></header>"""
CAMERA = """\
<div class="rf rf-more"><button type="button" id="rf-camera" class="rf-button">Use the camera</button>
<span class="rf-soft">or paste an image. Up to {} at once, of {} MB each.</span></div>
<dialog class="rf" id="rf-dialog" aria-label="Camera"><video id="rf-video" autoplay playsinline muted></video>
<p id="rf-camera-says" class="rf-soft" role="status"></p>
<button type="button" id="rf-shoot" class="rf-button rf-primary">Take the picture</button>
<button type="button" id="rf-close" class="rf-button">Close</button></dialog>"""
SCRIPT = """\
<script>(() => {
  // All images reach the page through its one file field: dropped, chosen, pasted or taken. Files go as they are.
  let last = [], stream = null;
  const field = () => document.querySelector('#rf-images input[type=file]');
  const by = id => document.getElementById(id);
  const give = files => {
    if (!field() || !files.length) return;
    const all = new DataTransfer();
    for (const file of files) all.items.add(file);
    field().files = all.files;
    field().dispatchEvent(new Event('change', {bubbles: true}));
  };
  const stop = () => { stream?.getTracks().forEach(track => track.stop()); stream = null; };
  const shoot = () => {
    const video = by('rf-video'), canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    if (!canvas.width) return;
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob(png => { by('rf-dialog').close(); give([new File([png], 'camera.png', {type: 'image/png'})]); });
  };
  const open = async () => {
    by('rf-dialog').addEventListener('close', stop, {once: true});
    by('rf-dialog').showModal();
    by('rf-camera-says').textContent = '';
    try {
      stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1920}}});
      by('rf-video').srcObject = stream;
    } catch {
      by('rf-camera-says').textContent = 'The camera cannot be used: there is none, or the browser does not allow it here.';
    }
  };
  document.addEventListener('change', event => {
    if (event.target === field()) last = [...event.target.files];
  }, true);
  document.addEventListener('dragover', event => event.preventDefault());
  document.addEventListener('drop', event => {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    if (event.target.closest?.('#rf-images')) last = files; else give(files);
  }, true);
  document.addEventListener('paste', event => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); give(files); }
  });
  document.addEventListener('click', event => {
    const actions = {'rf-camera': open, 'rf-shoot': shoot, 'rf-close': () => by('rf-dialog').close()};
    actions[event.target.id]?.();
    if (event.target.id === 'rf-force') document.querySelector('#rf-forced input').click();
  });
  window.judgeAgain = () => give(last);
  window.showResult = () => {
    const result = by('rf-result');
    if (result.getBoundingClientRect().top > 0.6 * innerHeight) result.scrollIntoView({behavior: 'smooth'});
  };
})();</script>"""
STYLE = """\
.gradio-container { max-width: 62rem !important; margin: 0 auto !important; font-size: 16px; }
.gradio-container .html-container { padding: 0 !important; }
#rf-images, #rf-options { border: 1px solid var(--border-color-primary); border-radius: 1rem; }
#rf-images .wrap { font-size: 1.15rem; line-height: 1.6; padding-top: 1.2rem; }
#rf-images [data-testid=status-tracker]:has(.error) { display: none !important; }
footer { opacity: .9; }
.rf { --fake: #9a4a00; --fake-fill: #e69f00; --real: #005a8f; --real-fill: #0072b2; --other: #4b5160; --other-fill: #aeb4be;
  --soft: #565e6c; --tint: 12%; color: var(--body-text-color); font-size: 1rem; line-height: 1.55; }
.dark .rf { --fake: #ffb84d; --real: #7cc4f5; --real-fill: #3b9bdc; --other: #c3c8d2; --other-fill: #6b7280; --soft: #a9b1bf;
  --tint: 25%; }
.rf h1, .rf h2, .rf p { margin: 0; color: inherit; } .rf p { max-width: 46rem; }
header.rf { padding: 1.25rem 0 .25rem; }
header.rf h1 { font-size: 2.2rem; line-height: 1.2; font-weight: 750; margin-bottom: .5rem; }
header.rf p { font-size: 1.1rem; color: var(--soft); }
.rf h2 { font-size: 1.2rem; font-weight: 650; margin: 1.75rem 0 .4rem; } .rf h2.rf-top { margin-top: 0; }
.rf .rf-soft, .rf figcaption, .rf th, .rf summary { color: var(--soft); font-size: .95rem; }
.rf-more { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; }
.rf .rf-button { display: inline-block; font: inherit; font-weight: 600; padding: .5rem 1rem; border-radius: .6rem; cursor: pointer;
  color: var(--button-secondary-text-color); background: var(--button-secondary-background-fill);
  border: 1px solid var(--border-color-primary); text-decoration: none; }
.rf .rf-button:hover { background: var(--button-secondary-background-fill-hover); }
.rf .rf-primary { color: var(--button-primary-text-color); background: var(--button-primary-background-fill); }
.rf .rf-primary:hover { background: var(--button-primary-background-fill-hover); }
.gradio-container :focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
dialog.rf { border: 1px solid var(--border-color-primary); border-radius: 1rem; padding: 1rem; margin: auto; max-width: 44rem;
  width: calc(100% - 2rem); background: var(--background-fill-primary); }
dialog.rf::backdrop { background: #000a; }
dialog video { width: 100%; margin-bottom: .8rem; border-radius: .6rem; background: #000; min-height: 8rem; }
.Fake { --own: var(--fake); --fill: var(--fake-fill); } .Real { --own: var(--real); --fill: var(--real-fill); }
.uncertain, .unread { --own: var(--other); --fill: var(--other-fill); }
.rf-card { border: 1px solid var(--border-color-primary); border-radius: 1rem; padding: 1.75rem;
  background: var(--block-background-fill); }
.rf-pair { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 1rem 2rem; align-items: start; }
.rf-pair + .rf-pair { margin-top: 1.75rem; } .rf-pair h2 { margin-top: 0; }
.rf figure { margin: 0; } .rf figcaption { overflow-wrap: anywhere; margin-top: .4rem; }
.rf img { display: block; max-width: 100%; margin: 0; border-radius: .6rem; } .rf-pair img { width: 100%; }
.rf img.small { image-rendering: pixelated; }
.rf .rf-verdict { font-size: 2.75rem; line-height: 1.15; font-weight: 750; color: var(--own); }
.rf-verdict small { font-size: .65em; }
.rf-verdict span { font-weight: 500; font-size: 1.25rem; color: var(--body-text-color); white-space: nowrap; }
.rf .rf-note { margin-top: 1rem; padding: .75rem 1rem; border-left: 4px solid var(--other-fill); border-radius: .3rem;
  background: color-mix(in srgb, var(--other-fill) var(--tint), transparent); overflow-wrap: anywhere; }
.rf-note + .rf-button, .rf p.rf-origin { margin-top: 1rem; }
.rf .rf-p { font-size: 1.2rem; margin-top: 1rem; } .rf-p b { font-variant-numeric: tabular-nums; }
.rf-bar { position: relative; height: 1.1rem; margin: .8rem 0 .4rem; display: flex; }
.rf-bar i { height: 100%; opacity: .6; background: var(--other-fill); }
.rf-bar i:first-child { background: var(--real-fill); border-radius: .55rem 0 0 .55rem; }
.rf-bar i:nth-child(3) { background: var(--fake-fill); border-radius: 0 .55rem .55rem 0; }
.rf-bar u { position: absolute; top: -.3rem; bottom: -.3rem; width: 2px; margin-left: -1px; background: var(--body-text-color); }
.rf-bar b { position: absolute; top: 50%; width: 1.4rem; height: 1.4rem; margin: -.7rem 0 0 -.7rem; border-radius: 50%;
  background: var(--own); border: 3px solid var(--block-background-fill); box-shadow: 0 0 0 2px var(--own); }
.rf-ends { display: flex; justify-content: space-between; gap: 1rem; font-size: .95rem; font-variant-numeric: tabular-nums; }
.rf-ends span:first-child { color: var(--real); } .rf-ends span:last-child { color: var(--fake); text-align: right; }
.rf ul { margin: .3rem 0; padding-left: 1.2rem; list-style: disc; } .rf li { overflow-wrap: anywhere; margin: .2rem 0; }
.rf-steps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: .8rem 1.5rem; }
.rf .rf-step { font-weight: 700; font-size: 1.25rem; color: var(--own); }
.rf-summary { display: flex; flex-wrap: wrap; gap: .8rem 1.1rem; align-items: center; justify-content: space-between; }
.rf-counts { font-size: 1.25rem; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; } .rf-counts span[class] { color: var(--own); }
#rf-options input { border: 1.5px solid #7b8494; }
.rf table { width: 100%; border-collapse: collapse; margin: 1.2rem 0 0; font-size: 1rem; border: 0; }
.rf th { text-align: left; font-weight: 500; }
.rf th, .rf td { padding: .7rem 1rem .7rem 0; border: 0; border-bottom: 1px solid var(--border-color-primary);
  vertical-align: top; }
.rf td img, .rf td .rf-none { width: 64px; height: 64px; object-fit: contain; border-radius: .4rem; }
.rf-none { background: color-mix(in srgb, var(--other-fill) 30%, transparent); display: grid; place-items: center; }
.rf-wait { aspect-ratio: 1; border-radius: .6rem; font-size: 2rem; }
.rf td { overflow-wrap: anywhere; } .rf td.rf-said { font-weight: 700; color: var(--own); white-space: nowrap; }
.rf td:last-child { width: 9rem; padding-right: 0; font-variant-numeric: tabular-nums; }
.rf td .rf-bar { height: .6rem; margin: .5rem .4rem .3rem 0; }
.rf td .rf-bar b { width: .9rem; height: .9rem; margin: -.45rem 0 0 -.45rem; border-width: 2px; box-shadow: none; }
.rf summary { cursor: pointer; } .rf td figure { margin: .6rem 0; max-width: 18rem; }
.rf td figure img, .rf td figure .rf-wait { width: 100%; height: auto; }
@media (max-width: 44rem) {
  .gradio-container > main, .gradio-container { padding: .5rem !important; } header.rf h1 { font-size: 1.8rem; }
  .rf-card { padding: 1rem; } .rf-pair { grid-template-columns: minmax(0, 1fr); }
  .rf-pair > div { order: -1; } .rf .rf-verdict { font-size: 2.3rem; }
  .rf thead { display: none; } .rf tbody, .rf td { display: block; }
  .rf tr { display: grid; grid-template-columns: 64px minmax(0, 1fr); gap: 0 1rem; padding: .8rem 0;
    border-bottom: 1px solid var(--border-color-primary); }
  .rf td, .rf td:last-child { border: 0; padding: 0; grid-column: 2; width: auto; }
  .rf td.rf-said, .rf td:last-child { order: -1; }
  .rf td:first-child { grid-column: 1; grid-row: 1 / span 4; order: -2; }
}
"""


def text(value):
    """Return a text of unknown origin as HTML that shows it and does nothing else."""
    return escape(printable(str(value)), quote=True)


# --- pictures ------------------------------------------------------------------------------------------------------------
def scaled(image, longer):
    """Return an image, (h, w, 3) uint8, scaled down so that its longer side has at most `longer` pixels."""
    import numpy as np
    from PIL import Image

    shown = Image.fromarray(image)
    shown.thumbnail((longer, longer), Image.Resampling.BICUBIC)
    return np.asarray(shown)


def picture(image, label):
    """Return an <img> that holds an image.

    Args:
        image: (h, w, 3) uint8, RGB; None gives a grey square.
        label: what it shows, for those who do not see it.
    """
    from PIL import Image

    if image is None:
        return '<div class="rf-none" aria-hidden="true">✕</div>'
    shown, file = Image.fromarray(image), io.BytesIO()
    small = max(shown.size) <= SMALL
    shown.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 88}))
    data = base64.b64encode(file.getvalue()).decode("ascii")
    kind, style = ("png", ' class="small"') if small else ("jpeg", "")
    return f'<img{style} src="data:image/{kind};base64,{data}" alt="{text(label)}">'


def welcome(limits):
    """Return what stands where the verdict will be."""
    steps = "".join(
        f'<div class="{name}"><p class="rf-step"><span aria-hidden="true">{MARKS[name]}</span> {HEADLINES[name][0]}</p>'
        f'<p class="rf-soft">{meaning}</p></div>'
        for name, meaning in MEANINGS.items()
    )  # fmt: skip
    return (
        f'<div class="rf rf-card"><h2 class="rf-top">Three verdicts</h2><div class="rf-steps">{steps}</div>'
        f"<h2>What this detector knows, and what it does not</h2>{listed(limits)}</div>"
    )


# --- one image -----------------------------------------------------------------------------------------------------------
def card(row, metadata, limits, image, heat, provenance, force):
    """Return what the page shows of one image.

    Args:
        row: as Judge.judge yields it.
        metadata: of the detector that was asked, None where the file could not be read.
        limits: lines on what that detector knows.
        image: the image, (h, w, 3) uint8, or None.
        heat: the heat map laid over it, (h, w, 3) uint8; PENDING while it is made; None where there is none.
        provenance: lines on what the file says of itself.
        force: as it was given to Judge.judge.
    """
    verdict = row["verdict"]
    size = f", {row['width']:,} × {row['height']:,} pixels" if row["width"] else ""
    shown = picture(image, "the image") if image is not None else ""
    said = f'<p class="rf-soft rf-origin">Apart from the score, the file says: <b>{claimed(row)}</b></p>'
    said = said if provenance and row["provenance"]["says"] != "nothing" else ""
    parts = [
        f'<div class="rf rf-card {verdict or "unread"}"><div class="rf-pair">',
        f"<figure>{shown}<figcaption>{text(row['path'])}{size}</figcaption></figure>" if shown else "",
        f'<div role="status"{"" if shown else WIDE}>{headline(verdict)}{reasons(row, metadata, force)}{said}</div></div>',
        why(heat),
        f"<h2>What the file says of itself: {claimed(row)}</h2>{listed(provenance)}" if provenance else "",
        f"<h2>What this detector knows, and what it does not</h2>{listed(limits)}" if limits else "",
        "</div>",
    ]
    return "".join(parts)


def headline(verdict):
    """Return the verdict in words."""
    said, meaning = HEADLINES[verdict]
    return f'<p class="rf-verdict"><small aria-hidden="true">{MARKS[verdict]}</small> {said} <span>{meaning}</span></p>'


def reasons(row, metadata, force):
    """Return what stands below the verdict: the probability and its thresholds, or why there is none."""
    if row["error"]:
        return f'<p class="rf-note">{text(row["error"])}</p>'
    if row["note"] and not force:
        return (
            f'<p class="rf-note">This image is unlike those that the detector was trained on: {text(row["note"])}. '
            'A verdict would be a guess.</p><button type="button" class="rf-button" id="rf-force">Judge it all the same</button>'
        )
    warned = f'<p class="rf-note">Do not rely on it: {text(row["note"])}.</p>' if row["note"] else ""
    limits = metadata["thresholds"]
    real, fake = percent(limits["real"]), percent(limits["fake"])
    return (
        f'<p class="rf-p">Probability that it is fake: <b>{percent(row["p_fake"])}</b></p>{bar(row["p_fake"], limits)}'
        f'<div class="rf-ends"><span>Real up to {real}</span><span>Fake from {fake}</span></div>'
        f"{warned}"
    )


def percent(share):
    """Return a probability as text; one that is not quite 0 or 1 does not look as if it were."""
    if share < 0.001 or share > 0.999:
        return "below 0.1 %" if share < 0.001 else "above 99.9 %" if share <= 1 else "more than 100 %"
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def bar(p_fake, limits):
    """Return the bar of P(Fake), from 0 to 1, with both thresholds marked."""
    real, fake = (100 * min(max(limits[name], 0), 1) for name in ("real", "fake"))
    at = 100 * p_fake
    return (
        f'<div class="rf-bar" role="img" aria-label="P(Fake) is {p_fake:.4f}; Real up to {limits["real"]:.4f}, Fake from '
        f'{limits["fake"]:.4f} on"><i style="width:{real:.2f}%"></i><i style="width:{max(fake - real, 0):.2f}%"></i>'
        f'<i style="width:{100 - max(fake, real):.2f}%"></i><u style="left:{real:.2f}%"></u><u style="left:{fake:.2f}%"></u>'
        f'<b style="left:{at:.2f}%"></b></div>'
    )


def why(heat):
    """Return the heat map and what it says; `heat` as in `card`."""
    if heat is None:
        return ""
    told = "The heat map is being made." if heat is PENDING else MAP_TOLD
    heading = "Where the verdict comes from"
    return f'<div class="rf-pair">{heat_map(heat)}<div><h2>{heading}</h2><p>{told}</p></div></div>'


def heat_map(heat):
    """Return the heat map alone."""
    shown = '<div class="rf-none rf-wait">…</div>' if heat is PENDING else picture(heat, "the image with the heat map")
    return f"<figure>{shown}</figure>"


def claimed(row):
    """Return in a few words what a file says of itself."""
    return text(claim(row["provenance"]))


def listed(lines):
    """Return lines of text as a list."""
    return f"<ul>{''.join(f'<li>{text(line.strip())}</li>' for line in lines)}</ul>"


# --- many images ---------------------------------------------------------------------------------------------------------
def table(rows, metadata_of, limits, images, heats, provenance, force, link):
    """Return what the page shows of several images: the counts, a CSV to download, and a line for each.

    Args:
        rows: list, as Judge.judge yields them.
        metadata_of: {name of a detector: its metadata}.
        images, heats, provenance: for each row, as in `card`.
        link: of the CSV.
    """
    counts = "".join(
        f'<span class="{name or "unread"}"><b>{number:,}</b> {HEADLINES[name][0].lower()}</span>'
        for name in HEADLINES if (number := sum(row["verdict"] == name for row in rows))
    )  # fmt: skip
    lines = "".join(
        _line(row, metadata_of.get(row["detector"]), *more, force, len(metadata_of) > 1)
        for row, *more in zip(rows, images, heats, provenance, strict=True)
    )
    return (
        f'<div class="rf rf-card"><div class="rf-summary"><div class="rf-counts" role="status"><span>{plural(len(rows), "image")}:'
        f'</span>{counts}</div><a class="rf-button" download="verdicts.csv" href="{link}">Download as CSV</a></div>'
        f"<table><thead><tr><th>Image</th><th>Name</th><th>Verdict</th><th>P(Fake)</th></tr></thead><tbody>{lines}</tbody></table>"
        f"<h2>What this detector knows, and what it does not</h2>{listed(limits)}</div>"
    )


def _line(row, metadata, image, heat, provenance, force, name_detector):
    said = f"{MARKS[row['verdict']]} {HEADLINES[row['verdict']][0]}"
    judged = row["p_fake"] is not None and not (row["note"] and not force)
    score = f"{percent(row['p_fake'])}{bar(row['p_fake'], metadata['thresholds'])}" if judged else ""
    told = [f"{row['width']:,} × {row['height']:,} pixels"] if row["width"] else []
    told += [f"judged by {row['detector']}"] if name_detector and row["detector"] else []
    told = [", ".join(told), row["error"] or row["note"] or ""]
    told = "".join(f'<div class="rf-soft">{text(line)}</div>' for line in told if line)
    heading = f"{'Why, and what' if heat is not None else 'What'} the file says of itself: {claimed(row)}"
    more = (heat_map(heat) if heat is not None else "") + listed(provenance)
    return (
        f'<tr class="{row["verdict"] or "unread"}"><td>{picture(image, "")}</td><td>{text(row["path"])}{told}'
        f'<details><summary>{heading}</summary>{more}</details></td><td class="rf-said">{said}</td><td>{score}</td></tr>'
    )


def csv_link(rows, columns):
    """Return the rows as a CSV in a link, so that no file of it lies on the server."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row.get(name)) for name in columns})
    data = base64.b64encode(file.getvalue().encode("utf-8", "backslashreplace")).decode("ascii")
    return f"data:text/csv;charset=utf-8;base64,{data}"


def _cell(value):
    """Return a cell that a spreadsheet shows and does not run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(DANGEROUS) else value
