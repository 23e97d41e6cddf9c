"""The evaluation in words, tables and one HTML page that holds its pictures and needs nothing from elsewhere."""
import base64
from html import escape
from pathlib import PurePath
from string import Template

from detector.console import plural, printable
from detector.reports.render import TEMPLATES

STYLE = (TEMPLATES / "style.css").read_text("utf-8")
LISTED = 60  # unreadable files listed; metrics.json has them all
FIGURES = {  # where a figure stands in metrics.json -> what people call it
    ("n",): "images",
    ("accuracy",): "accuracy",
    ("balanced_accuracy",): "balanced accuracy",
    ("auc",): "AUC",
    ("average_precision",): "average precision",
    ("tpr_at_1pct_fpr",): "TPR at 1 % FPR",
    ("tpr_at_5pct_fpr",): "TPR at 5 % FPR",
    ("log_loss",): "loss",
    ("raw", "log_loss"): "loss, not calibrated",
    ("brier",): "Brier score",
    ("raw", "brier"): "Brier score, not calibrated",
    ("ece",): "ECE",
    ("raw", "ece"): "ECE, not calibrated",
    ("uncertain_share",): "share of uncertain verdicts",
    ("accuracy_when_certain",): "accuracy of the others",
    ("real_called_fake",): "share of Real called Fake",
    ("fake_called_real",): "share of Fake called Real",
    **{
        ("per_class", name, figure): f"{'F1' if figure == 'f1' else figure} of {name}"
        for name in ("Fake", "Real")
        for figure in ("precision", "recall", "f1")
    },
}
COMPARED = [path for path in FIGURES if path[0] not in ("n", "raw")]
SHORT = {  # of the tables that have a line for each group or damage
    "n": "images", "accuracy": "accuracy", "auc": "AUC", "tpr_at_1pct_fpr": "TPR at 1 %", "ece": "ECE",
    "uncertain_share": "uncertain", "accuracy_when_certain": "others right", "real_called_fake": "Real as Fake",
    "fake_called_real": "Fake as Real",
}  # fmt: skip
PAGE = Template(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="evaluate.py">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of $model</title>
<style>
{STYLE}.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem; }}
figure {{ margin: 0; }} figure.broad {{ margin: 1rem 0; }}
img {{ display: block; width: 100%; height: auto; background: #fff; border-radius: .5rem; }}
.lead {{ font-size: 1.1rem; max-width: none; }}
@media print {{ img {{ break-inside: avoid; }} }}
</style></head><body>
<p class="lead">$headline</p>
<h1>Evaluation of $model</h1>
<ul class="verdict">$notes</ul>
<h2>Figures</h2>
<p>In brackets the 95 % interval (bootstrap, $resamples resamples within each class). Fake is the positive class. Accuracy,
precision, recall and F1 call an image Fake from P(Fake) 0.5 on; the shares use the verdict: Fake from $fake_from on, Real up to
$real_to, uncertain between them. These thresholds come with the model.</p>
<div class="wide"><table>$figures</table></div>
$sections
<h2>How it was made</h2>
<div class="wide"><table>$made</table></div>
</body></html>
""")


def text(value):
    """Return a string, such as the name of a file from elsewhere, as harmless HTML."""
    return escape(printable(value))


# --- words and cells, for the shell and the page -------------------------------------------------------------------------
def at(figures, path):
    """Return what stands at a path such as ('per_class', 'Fake', 'recall'), None where nothing does."""
    for name in path:
        figures = (figures or {}).get(name)
    return figures


def cell(figures, path, intervals=True):
    """Return a figure as text, with its interval where it has one."""
    value, interval = at(figures, path), at(figures.get("intervals"), path)
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})" if interval and intervals else f"{value:.4f}"


def columns(report):
    """Return {heading: figures} of a report: each split, and each without the images that were trained on."""
    found = {}
    for split, figures in report["splits"].items():
        found[split] = figures
        if figures["without_leaks"]:
            found[f"{split}, without train images"] = figures["without_leaks"]
    return found


def figure_rows(report):
    """Return the rows of the table of figures: the name, then a cell for each of `columns`."""
    return [[label, *(cell(figures, path) for figures in columns(report).values())] for path, label in FIGURES.items()]


def short_rows(named):
    """Return the rows of a table that has a line for each name, with the figures of SHORT; `named` is {name: figures}.

    A figure with a star is of the group and all images of the class that it lacks (`against_all`).
    """
    return [[printable(name), *(_short_cell(figures, one) for one in SHORT)] for name, figures in named.items()]


def _short_cell(figures, name):
    against = figures.get("against_all") or {}
    if figures[name] is None and against.get(name) is not None:
        return f"{cell(against, (name,), False)}*"
    return cell(figures, (name,), name == "accuracy")


def footnote(named):
    """Return the line that explains the stars of `short_rows`, or None where there are none."""
    stars = any(figures.get("against_all") for figures in named.values())
    return "* of a group of one class: against all images of the other class" if stars else None


def short_header(first):
    """Return the header of `short_rows`."""
    return [first, *SHORT.values()]


def comparison_rows(versus, figures):
    """Return the rows of the table that compares two models: figure, this, other, difference with its interval."""
    return [
        [FIGURES[path], cell(figures, path, False), cell(versus["figures"], path, False), _difference(versus, path)]
        for path in COMPARED
    ]


def _difference(versus, path):
    value, interval = at(versus["difference"], path), at(versus["intervals"], path)
    return "none" if value is None else f"{value:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f})"


def mcnemar_sentence(versus):
    """Return McNemar's test as a sentence."""
    test = versus["mcnemar"]
    p = f"p = {test['p']:.2g}" if test["p"] >= 1e-300 else "p < 1e-300"
    only, others = (f"{test[name]:,}" for name in ("only_this_right", "only_other_right"))
    return f"only this model is right on {only} images, only {versus['model']} on {others} (McNemar's exact test: {p})"


def headline(model, split, figures, counts):
    """Return the sentence that a person can quote; `counts` is {class: n}."""

    def percent(name):
        low, high = figures["intervals"][name]
        return f"{100 * figures[name]:.2f} % ({100 * low:.2f} to {100 * high:.2f})"

    numbers = " and ".join(f"{n:,} {name}" for name, n in counts.items())
    low, high = figures["intervals"]["auc"]
    where = "images" if split == "all" else f"{split} images"
    sentence = (
        f"On {numbers} {where}, {model} has an accuracy of {percent('accuracy')} and an AUC of {figures['auc']:.4f} "
        f"({low:.4f} to {high:.4f}); it calls {percent('real_called_fake')} of the Real images Fake and is uncertain about "
        f"{100 * figures['uncertain_share']:.2f} % of all (in brackets 95 % intervals)."
    )
    clean = figures["without_leaks"]
    if clean and clean["accuracy"] is not None:
        auc = "none" if clean["auc"] is None else f"{clean['auc']:.4f}"
        wrong = "none" if clean["real_called_fake"] is None else f"{100 * clean['real_called_fake']:.2f} %"
        sentence += (
            f" Without the {figures['leaks']['either']:,} of them that stand in a train set: "
            f"accuracy {100 * clean['accuracy']:.2f} %, AUC {auc}, "
            f"Real called Fake {wrong}, uncertain {100 * clean['uncertain_share']:.2f} %."
        )
    return sentence


def notes(report):
    """Return [(kind, line)], kind 'warning' or 'clean': what a reader of the figures has to know."""
    lines = []
    for split, figures in report["splits"].items():
        lines += [("warning", line) for line in _warnings(split, figures)]
        if split == "validation":
            fitted = "temperature and thresholds were fitted on the validation split of the model's training"
            lines.append(("warning", f"validation: {fitted}; where it is this one, the figures flatter the model"))
        lines += [("clean", line) for line in _clean(split, figures["leaks"])]
        if figures["leaks"] and figures["leaks"]["in_train_of_model"] is None:
            older = "the model, of an older version, holds no digests of its train images: it may have seen some of these"
            lines.append(("warning", older))
    return list(dict.fromkeys(lines))


def _warnings(split, figures):
    leaks = figures["leaks"] or {}
    if leaks.get("in_train"):
        yield f"{split}: {plural(leaks['in_train'], 'image')} also in the train folder, byte for byte"
    if leaks.get("in_train_of_model"):
        yield f"{split}: {plural(leaks['in_train_of_model'], 'image')} among those the model was trained on"
    theirs = (figures["versus"] or {}).get("in_train_of_other")
    if theirs:
        yield f"{split}: {plural(theirs, 'image')} among those {figures['versus']['model']} was trained on: its figures flatter it"
    if figures["unreadable"]:
        were = "was" if figures["unreadable"] == 1 else "were"
        yield f"{split}: {plural(figures['unreadable'], 'image')} could not be read and {were} not scored"
    if figures["unlike_seen"]:
        number = plural(figures["unlike_seen"], "image")
        yield f"{split}: {number} unlike any that the model has seen; app.py says uncertain to these"


def _clean(split, leaks):
    if leaks and leaks["in_train"] == 0:
        yield f"{split}: no image is in the train folder"
    if leaks and leaks["in_train_of_model"] == 0:
        yield f"{split}: no image is among those the model was trained on"


# --- the page ------------------------------------------------------------------------------------------------------------
def render(report, folder, pictures):
    """Return the page of a report as text.

    Args:
        report: what metrics.json holds.
        folder: pathlib.Path that the pictures lie in.
        pictures: {split: {file name: alternative text}}; a name that begins with 'damage' or 'mistakes' is shown across the page.
    """
    from detector.evaluation.intervals import RESAMPLES

    sections = [section(split, figures, folder, pictures[split]) for split, figures in report["splits"].items()]
    kinds = {"warning": "warn", "clean": "good"}
    return PAGE.substitute(
        model=text(PurePath(report["model"]).name), headline=text(report["headline"][0]),
        notes="".join(f"<li><b class={kinds[kind]}>{kind}</b> {text(line)}" for kind, line in notes(report))
        + "".join(f"<li>{text(line)}" for line in report["headline"][1:]),
        figures=html_table(figure_rows(report), ["", *columns(report)]), sections="\n".join(sections),
        fake_from=f"{report['thresholds']['fake']:.4f}", real_to=f"{report['thresholds']['real']:.4f}",
        made=html_table(made_rows(report)), resamples=f"{RESAMPLES:,}",
    )  # fmt: skip


def html_table(rows, header=None):
    """Return rows of text as the rows of an HTML table."""
    lines = ["<tr>" + "".join(f"<th>{text(str(name))}" for name in header)] if header else []
    lines += ["<tr>" + "".join(f"<td>{text(str(value))}" for value in row) for row in rows]
    return "\n".join(lines)


def made_rows(report):
    """Return the rows of the table on the model and the engine."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return [
        ["images", report["data"]], ["model", report["model"]], ["its SHA-256", report["model_sha256"]],
        ["engine", report["device"]], ["temperature", f"{report['temperature']:.4f}"], ["versions", versions],
    ]  # fmt: skip


def section(split, figures, folder, pictures):
    """Return the pictures and tables of one split."""
    broad = {name: alt for name, alt in pictures.items() if name.startswith(("damage", "mistakes"))}
    parts = [f"<h2>Pictures, {text(split)}</h2><div class=pictures>"]
    parts += [picture(folder / name, alt) for name, alt in pictures.items() if name not in broad]
    parts.append("</div>")
    groups = {row["group"]: row for row in figures["groups"] or []}
    parts += [_table(f"Groups, {split}", groups, "group, worst first")] if groups else []
    parts += [_table(f"Damaged images, {split}", figures["damage"], "damage")] if figures["damage"] else []
    parts += [picture(folder / name, alt, "broad") for name, alt in broad.items() if name.startswith("damage")]
    parts += [_versus(split, figures)] if figures["versus"] else []
    parts.append(f"<h2>Worst mistakes, {text(split)}</h2>")
    parts += [picture(folder / name, alt, "broad") for name, alt in broad.items() if name.startswith("mistakes")] or ["<p>None."]
    parts += [_unreadable(split, figures["unreadable_files"])] if figures["unreadable"] else []
    return "\n".join(parts)


def picture(file, alt, kind=""):
    """Return a PNG file as a figure that holds it."""
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure class="{kind}"><img src="data:image/png;base64,{data}" alt="{text(alt)}"></figure>'


def _table(title, named, first):
    note = footnote(named)
    table = f"<h2>{text(title)}</h2><div class=wide><table>{html_table(short_rows(named), short_header(first))}</table></div>"
    return table + (f"<p>{text(note)}." if note else "")


def _versus(split, figures):
    versus = figures["versus"]
    rows = html_table(comparison_rows(versus, figures), ["", "this model", "the other", "difference"])
    sentence = mcnemar_sentence(versus)
    return (
        f"<h2>Against {text(versus['model'])}, {text(split)}</h2><p>{text(sentence[0].upper() + sentence[1:])}. The images are in "
        f"changed.csv.</p><div class=wide><table>{rows}</table></div>"
    )


def _unreadable(split, lines):
    items = "".join(f"<li><code>{text(line)}</code>" for line in lines[:LISTED])
    return f"<h2>Not scored, {text(split)}: {plural(len(lines), 'image')}</h2><ul class=paths>{items}</ul>"
