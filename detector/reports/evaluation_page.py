"""The report of evaluate.py as tables of text, for the terminal, and as one self-contained HTML page."""

from pathlib import PurePath

from detector.console import plural, printable
from detector.reports.render import data_uri, render

LISTED = 60  # unreadable files on the page; metrics.json has them all
LABELS: dict[tuple[str, ...], str] = {  # path of a metric in metrics.json -> its label
    ("n",): "images",
    ("accuracy",): "accuracy",
    ("balanced_accuracy",): "balanced accuracy",
    ("auc",): "AUC",
    ("average_precision",): "average precision",
    ("tpr_at_1pct_fpr",): "TPR at 1 % FPR",
    ("tpr_at_5pct_fpr",): "TPR at 5 % FPR",
    ("log_loss",): "log loss",
    ("raw", "log_loss"): "log loss, not calibrated",
    ("brier",): "Brier score",
    ("raw", "brier"): "Brier score, not calibrated",
    ("ece",): "ECE",
    ("raw", "ece"): "ECE, not calibrated",
    ("abstention_rate",): "abstention rate (verdict uncertain)",
    ("selective_accuracy",): "selective accuracy (of the other verdicts)",
    ("fakes_caught",): "Fake with verdict Fake",
    ("real_called_fake",): "Real with verdict Fake (false positives)",
    ("fake_called_real",): "Fake with verdict Real",
} | {("per_class", name, metric): f"{label} of {name}" for name in ("Fake", "Real")
     for metric, label in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))}  # fmt: skip
COMPARED = [path for path in LABELS if path[0] not in ("n", "raw")]
SHORT = {  # columns of the tables with a row for each group, corruption or tier
    "n": "images", "accuracy": "accuracy", "balanced_accuracy": "balanced", "auc": "AUC", "tpr_at_1pct_fpr": "TPR at 1 %",
    "ece": "ECE", "abstention_rate": "abstention", "selective_accuracy": "selective acc.", "fakes_caught": "fakes caught",
    "real_called_fake": "false positives",
}  # fmt: skip
SUMMARY = {  # rows of the table of macro averages
    "auc": "AUC", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "tpr_at_1pct_fpr": "TPR at 1 % FPR",
    "abstention_rate": "abstention rate", "selective_accuracy": "selective accuracy", "fakes_caught": "fakes caught",
    "real_called_fake": "false positives", "fake_called_real": "Fake with verdict Real",
}  # fmt: skip
AGAINST_ALL = "* group of one class: computed with all images of the other class, and not part of the macro average"


def metric_at(metrics, path):
    """Return the value at a path such as ('per_class', 'Fake', 'recall'), or None."""
    for name in path:
        metrics = (metrics or {}).get(name)
    return metrics


def cell(metrics, path, interval=True):
    """Return a metric as text, with its interval if it has one."""
    value, limits = metric_at(metrics, path), metric_at(metrics.get("intervals"), path)
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f} ({limits[0]:.4f} to {limits[1]:.4f})" if limits and interval else f"{value:.4f}"


def columns(report):
    """Return {heading: metrics} of a report: each split, and each split without its train images."""
    found = {}
    for split, metrics in report["splits"].items():
        found |= {split: metrics, f"{split}, without train images": metrics["without_leaks"]}
    return {heading: metrics for heading, metrics in found.items() if metrics}


def metric_rows(report):
    """Return the rows of the main table: a label, then a cell for each of `columns`."""
    return [[label, *(cell(metrics, path) for metrics in columns(report).values())] for path, label in LABELS.items()]


def short_table(title, first, named):
    """Return {title, header, rows, note} of a table with a row for each name; `named` is {name: metrics}."""
    shown = SHORT | ({"flip_rate": "flips"} if any("flip_rate" in metrics for metrics in named.values()) else {})
    rows = [[printable(name), *(_short_cell(metrics, one) for one in shown)] for name, metrics in named.items()]
    starred = any(metrics.get("against_all") for metrics in named.values())
    return {"title": title, "header": [first, *shown.values()], "rows": rows, "note": AGAINST_ALL if starred else None}


def _short_cell(metrics, name):
    against = metrics.get("against_all") or {}
    if metrics.get(name) is None and against.get(name) is not None:
        return f"{cell(against, (name,), False)}*"
    text = cell(metrics, (name,), name == "accuracy")
    if name in ("fakes_caught", "real_called_fake") and text != "none":
        counts = metrics["verdict_counts"]["Fake" if name == "fakes_caught" else "Real"]
        text += f" ({counts['Fake']:,}/{sum(counts.values()):,})"
    return text


def summary_table(split, summary):
    """Return {title, header, rows, note} of the macro averages over groups."""
    rows = []
    for name, label in SUMMARY.items():
        found = summary[name]
        if found:
            errors = f" ({found['errors']:,}/{found['images']:,} wrong)" if "errors" in found else ""
            spread = [f"{found[key]:.4f}" for key in ("mean", "std", "min", "max")]
            rows.append([label, f"{found['groups']:,}", *spread, f"{printable(found['worst'])}{errors}"])
    few = {f"{name} image": counts for name, counts in summary["pooled"].items() if counts["groups"]}
    pooled = [f"{plural(some['images'], noun)} of {plural(some['groups'], 'group')}" for noun, some in few.items()]
    note = f"each group counts the same; fewer than {summary['min_images']} images of a class are pooled"
    note += f": {' and '.join(pooled)}" if pooled else ""
    header = [f"groups of {split}", "groups", "mean", "std", "min", "max", "worst group"]
    return {"title": f"Macro average over groups, {split}", "header": header, "rows": rows, "note": note}


def tier_summary_table(split, tiers):
    """Return {title, header, rows, note} of the macro averages over groups in each delivery tier."""
    columns = {
        "AUC": ("auc", "mean"), "lowest AUC": ("auc", "min"), "balanced acc.": ("balanced_accuracy", "mean"),
        "false positives": ("real_called_fake", "mean"), "highest": ("real_called_fake", "max"),
        "fakes caught": ("fakes_caught", "mean"), "abstention": ("abstention_rate", "mean"),
    }  # fmt: skip
    rows = [[name, *(cell(metrics["group_summary"], path) for path in columns.values())] for name, metrics in tiers.items()]
    title = f"Macro average over groups by delivery tier, {split}"
    return {"title": title, "header": [f"tiers of {split}", *columns], "rows": rows, "note": None}


def tables(split, metrics):
    """Return the tables of one split: groups, delivery tiers and corruptions, as far as they were evaluated."""
    groups, tiers, corrupted = {row["group"]: row for row in metrics["groups"] or ()}, metrics["tiers"], metrics["damage"]
    found = [
        groups and short_table(f"Groups, {split}", f"groups of {split}", groups),
        groups and summary_table(split, metrics["group_summary"]),
        tiers and short_table(f"Delivery tiers, {split}", f"tiers of {split}", tiers),
        groups and tiers and tier_summary_table(split, tiers),
        corrupted and short_table(f"Corrupted images, {split}", f"corrupted {split}", corrupted),
    ]
    return list(filter(None, found))


def comparison_rows(versus, metrics):
    """Return the rows of the table that compares two models: metric, this, other, difference with its interval."""
    rows = []
    for path in COMPARED:
        value, interval = metric_at(versus["difference"], path), metric_at(versus["intervals"], path)
        difference = "none" if value is None else f"{value:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f})"
        rows.append([LABELS[path], cell(metrics, path, False), cell(versus["figures"], path, False), difference])
    return rows


def mcnemar_sentence(versus):
    """Return McNemar's test as a sentence."""
    test = versus["mcnemar"]
    p = f"p = {test['p']:.2g}" if test["p"] >= 1e-300 else "p < 1e-300"
    only, others = (f"{test[name]:,}" for name in ("only_this_right", "only_other_right"))
    return f"{only} images only this model classifies correctly, {others} only {versus['model']} (McNemar's exact test: {p})"


def headline(model, split, metrics):
    """Return the main result as a sentence."""

    def percent(metrics, name, interval=False):
        if metrics[name] is None:
            return "none"
        low, high = metrics["intervals"][name]
        return f"{100 * metrics[name]:.2f} %" + (f" ({100 * low:.2f} to {100 * high:.2f})" if interval else "")

    numbers = " and ".join(f"{sum(row):,} {name}" for name, row in zip(("Fake", "Real"), metrics["confusion"], strict=True))
    kind = "images" if split == "all" else f"{split} images"
    sentence = (
        f"On {numbers} {kind}, {model} has an accuracy of {percent(metrics, 'accuracy', True)} and an AUC of "
        f"{cell(metrics, ('auc',))}; it calls {percent(metrics, 'real_called_fake', True)} of the Real images Fake and is "
        f"uncertain about {percent(metrics, 'abstention_rate')} of all images (95 % intervals in brackets)."
    )
    clean = metrics["without_leaks"]
    if clean and clean["n"]:
        sentence += (
            f" Without the {metrics['leaks']['either']:,} images that are also train images: "
            f"accuracy {percent(clean, 'accuracy')}, AUC {cell(clean, ('auc',), False)}, "
            f"Real called Fake {percent(clean, 'real_called_fake')}, uncertain {percent(clean, 'abstention_rate')}."
        )
    return sentence


def notes(report):
    """Return [(kind, line)], kind 'warning' or 'clean': what a reader of the metrics has to know."""
    lines = [note for split, metrics in report["splits"].items() for note in _notes(split, metrics)]
    return list(dict.fromkeys(lines))


def _notes(split, metrics):
    leaks, versus = metrics["leaks"] or {}, metrics["versus"] or {}
    counted = (
        (leaks.get("in_train"), "also in the train folder, byte for byte"),
        (leaks.get("in_train_of_model"), "among the train images of the model"),
        (versus.get("in_train_of_other"), f"among the train images of {versus.get('model')}: its metrics are too optimistic"),
        (metrics["unreadable"], "could not be read and not scored"),
        (metrics["out_of_range"], "outside the training range of sizes and shapes; app.py answers uncertain for these"),
    )
    yield from (("warning", f"{split}: {plural(number, 'image')} {what}") for number, what in counted if number)
    if split == "validation":
        yield "warning", "validation: if the model was calibrated on these images, the metrics are too optimistic"
    for name, place in (("in_train", "in the train folder"), ("in_train_of_model", "among the train images of the model")):
        if leaks.get(name) == 0:
            yield "clean", f"{split}: no image is {place}"
    if leaks and leaks["in_train_of_model"] is None:
        yield "warning", "the model file, of an older version, has no digests of its train images: some images may be among them"


def render_page(report, folder, plots):
    """Return the page of a report (a dict as metrics.json) as HTML; `plots` is {split: {file name in folder: alternative text}}."""
    from detector.evaluation.intervals import RESAMPLES

    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    made = [
        ["images", report["data"]], ["model", report["model"]], ["SHA-256 of the model", report["model_sha256"]],
        ["engine", report["device"]], ["temperature", f"{report['temperature']:.4f}"], ["versions", versions],
    ]  # fmt: skip
    return render(
        "evaluation.html", tool="evaluate.py", title=f"Evaluation of {PurePath(report['model']).name}",
        headlines=report["headline"], lines=[*notes(report), *((None, line) for line in report["headline"][1:])],
        resamples=RESAMPLES, thresholds=report["thresholds"], made=made,
        metrics={"rows": metric_rows(report), "header": ["", *columns(report)]},
        splits=[_section(split, metrics, folder, plots[split]) for split, metrics in report["splits"].items()],
    )  # fmt: skip


def _section(split, metrics, folder, plots):
    """Return what the template shows of one split."""
    images = {"plots": [], "corruptions": [], "mistakes": []}
    for name, alt in plots.items():
        kind = name.split("_")[0]
        image = {"uri": data_uri((folder / name).read_bytes(), "png"), "alt": alt}
        images[kind if kind in images else "plots"].append(image)
    versus = metrics["versus"] and {
        "model": metrics["versus"]["model"], "mcnemar": mcnemar_sentence(metrics["versus"]),
        "rows": comparison_rows(metrics["versus"], metrics), "header": ["", "this model", "the other", "difference"],
    }  # fmt: skip
    shown = [(line, None) for line in metrics["unreadable_files"][:LISTED]]
    more = {"tables": tables(split, metrics), "versus": versus, "unreadable": metrics["unreadable_files"], "shown": shown}
    return {"name": split, **images, **more}
