"""Evaluate a detector: reads MODEL.h5 and data/<split>/{Fake,Real}, or any tree of the two classes -> writes report/.

    python evaluate.py detector.h5
    python evaluate.py detector.h5 --split train test --corruptions
    python evaluate.py detector.h5 --data photos --group-by folder --tiers
    python evaluate.py detector.h5 --data photos --group-by folder --versus other.h5

Thresholds and temperature come from the .h5; nothing is fitted here. A score is the same as in app.py. report/ contains the
plots, report.html (everything on one page), predictions.csv (path, label, p_fake, verdict), with --versus changed.csv (the
images that only one of the models classifies correctly), and metrics.json, written last, whose keys docs/evaluation.md lists.
"""

import argparse
import csv
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from detector import console, files
from detector.console import HelpFormatter, InputError, printable, progress, stage
from detector.data import tree as data_tree
from detector.evaluation import dataset

RESULT = "metrics.json"  # written last: without it a report is incomplete
OWN_KEYS = (  # of a split, in addition to its metrics and intervals
    "unreadable", "unreadable_files", "unreadable_reasons", "out_of_range", "unlike_seen", "leaks", "without_leaks", "groups",
    "group_summary", "tiers", "damage", "versus",
)  # fmt: skip
LIBRARIES = ("ai-edge-litert", "opencv-python-headless", "scikit-learn", "scipy")  # on which the metrics depend, too
MISTAKES = {"real_called_fake": "Real images predicted Fake", "fake_called_real": "Fake images predicted Real"}


class Scored(NamedTuple):
    """The readable images of one split, in order, and the unreadable ones."""

    items: list  # of detector.evaluation.dataset.Item
    is_fake: object  # (n,) bool
    p_fake: object  # (n,) float64, calibrated
    logits: object  # (1 + v, n) float64: of the images themselves, then of their v variants (corruptions, delivery tiers)
    out_of_range: int
    unreadable: list  # of (path relative to data, error line)


def score_items(detector, data, items, variants=()):
    """Score images; return Scored. `variants` are functions (h, w, 3) uint8 -> uint8 whose results are scored, too.

    Raises InputError if no image of a class can be read.
    """
    import numpy as np

    from detector.inference.scoring import score_files
    from detector.model.scores import out_of_range

    readable, p_fake, logits, unreadable, outside = [], [], [], [], 0
    scores = score_files(detector, (os.path.join(data, item.path) for item in items), degradations=variants)
    for item, score in zip(items, progress(scores, total=len(items)), strict=True):
        if score.error:
            unreadable.append((item.path, score.error))
            continue
        readable.append(item)
        p_fake.append(score.p_fake)
        logits.append((score.logit, *score.degraded))
        outside += out_of_range(detector.metadata, score.width, score.height, score.blank) is not None
    is_fake = np.array([item.is_fake for item in readable], bool)
    for name, there in zip(data_tree.CLASSES, (is_fake, ~is_fake), strict=True):
        if not there.any():
            first = next(item.path for item in items if item.is_fake == (name == data_tree.CLASSES[0]))
            raise InputError(f"{data / first}: expected images of class {name} that can be read, found none; run data_audit.py")
    return Scored(readable, is_fake, np.array(p_fake), np.array(logits).T, outside, unreadable)


def evaluate_split(detector, data, split, scored, known, corruptions, tiers, min_images):
    """Return the entry of one split in metrics.json, without `versus`.

    Args:
        known: digests of train images, as returned by detector.evaluation.dataset.known_digests.
        corruptions, tiers: names of the corruptions and then of the delivery tiers that were scored as variants.
    """
    import numpy as np

    from detector.evaluation.intervals import metrics_with_intervals
    from detector.evaluation.metrics import group_metrics
    from detector.model.scores import p_fake_of

    thresholds, temperature = (detector.metadata[name] for name in ("thresholds", "temperature"))
    raw = p_fake_of(scored.logits, 1.0)
    calibrated = [scored.p_fake, *p_fake_of(scored.logits[1:], temperature)]
    groups = np.array([item.group for item in scored.items])

    def measure(which=slice(None), variant=0):
        return metrics_with_intervals(scored.is_fake[which], calibrated[variant][which], thresholds, raw[variant][which])

    def summarize(variant=0):
        return None if groups[0] is None else group_metrics(groups, scored.is_fake, calibrated[variant], thresholds, min_images)

    def measure_variant(i):
        flips = (calibrated[i] >= 0.5) != (scored.p_fake >= 0.5)
        return {**measure(variant=i), "flip_rate": float(np.mean(flips)), "group_summary": summarize(i)}

    whole, summary = measure(), summarize()
    paths = [item.path for item in scored.items]
    leaks, leaked = (None, None) if split == "train" else dataset.find_leaks(data, paths, known)
    original = {**whole, "flip_rate": 0.0, "group_summary": summary}
    variants = [measure_variant(i) for i in progress(range(1, len(calibrated)), unit="variant evaluated")]
    corrupted, delivered = variants[: len(corruptions)], variants[len(corruptions) :]
    return {
        **whole,
        "unreadable": len(scored.unreadable),
        "unreadable_files": [line for _, line in scored.unreadable],
        "unreadable_reasons": {reason: len(some) for reason, some in names_by_reason(data, scored.unreadable).items()},
        "out_of_range": scored.out_of_range,
        "unlike_seen": scored.out_of_range,
        "leaks": leaks,
        "without_leaks": measure(~leaked) if leaks and leaks["either"] else None,
        "groups": evaluate_groups(scored, groups, measure) or None,
        "group_summary": summary,
        "tiers": {"as delivered": original, **dict(zip(tiers, delivered, strict=True))} if tiers else None,
        "damage": {"undamaged": original, **dict(zip(corruptions, corrupted, strict=True))} if corruptions else None,
        "versus": None,
    }


def names_by_reason(data, unreadable):
    """Return {reason: [paths relative to data]} of unreadable images."""
    found = {}
    for path, line in unreadable:
        found.setdefault(console.short_reason(line.removeprefix(f"{os.path.join(data, path)}: ")), []).append(path)
    return found


def evaluate_groups(scored, groups, measure):
    """Return [{group, metrics, against_all}], the lowest accuracy first; `measure` takes an (n,) bool of images."""
    rows = []
    for name in progress(sorted(set(groups.tolist()) - {None}), unit="group evaluated"):
        rows.append({"group": name, **measure(groups == name), "against_all": against_all(scored, groups == name, measure)})
    return sorted(rows, key=lambda row: (row["accuracy"], row["n"]))


def against_all(scored, which, measure):
    """Return the metrics that need both classes for a group of one class and all images of the other; None if it has both."""
    from detector.evaluation.metrics import BOTH_CLASSES

    classes = scored.is_fake[which]
    if classes.any() and not classes.all():
        return None
    found = measure(which | (scored.is_fake != classes[0]))
    return {name: found[name] for name in BOTH_CLASSES} | {"intervals": {name: found["intervals"][name] for name in BOTH_CLASSES}}


def versus(detector, scored, other, other_scored, seen=None):
    """Return (what metrics.json has of the comparison, [rows of changed.csv]) for a split that both models scored.

    `seen` is the number of these images among the train images of the other model, None if not known.
    """
    from detector.evaluation.intervals import compare, metrics_with_intervals
    from detector.model.scores import p_fake_of

    limits, other_limits = detector.metadata["thresholds"], other.metadata["thresholds"]
    raw = p_fake_of(other_scored.logits[0], 1.0)
    found = {
        "model": os.fspath(other.path),
        "model_sha256": files.digest_of(other.path),
        "in_train_of_other": seen,
        "figures": metrics_with_intervals(scored.is_fake, other_scored.p_fake, other_limits, raw),
        **compare(scored.is_fake, scored.p_fake, limits, other_scored.p_fake, other_limits),
    }
    changed = []
    for item, mine, theirs in zip(scored.items, scored.p_fake.tolist(), other_scored.p_fake.tolist(), strict=True):
        if (mine >= 0.5) != (theirs >= 0.5):
            right = "this" if (mine >= 0.5) == item.is_fake else "other"
            changed.append([item.path, item.label, repr(mine), repr(theirs), right])
    return found, changed


def check_folder(folder, data, overwrite):
    """Raise InputError if the report would overwrite something, is inside the data, or cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the report, found a file; choose another with --report")
    if folder.resolve().is_relative_to(data.resolve()):
        raise InputError(f"{folder}: expected a folder outside of {data}, which is only read; choose another with --report")
    there = existing_parts(folder)
    interrupted = (folder / f"{RESULT}{files.UNFINISHED}").exists()  # then it may be overwritten
    if there and not overwrite and (not interrupted or there[0].name == RESULT):
        raise InputError(f"{folder}: found a {there[0].name} already; give another --report, or --overwrite")
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(here, os.W_OK):
        raise InputError(f"{here}: expected a folder that can be written to; choose another with --report")


def existing_parts(folder):
    """Return the paths of the existing files of a report, the result first."""
    from detector.evaluation import plots

    kinds = [*plots.NAMES, "corruptions", "damage", *(f"mistakes_{kind}" for kind in MISTAKES)]  # damage: of older reports
    images = [f"{kind}_{split}.png" for kind in kinds for split in (*data_tree.SPLITS, dataset.ALL)]
    paths = [folder / name for name in (RESULT, "report.html", "predictions.csv", "changed.csv", *images)]
    return [path for path in paths if path.exists()]


def write_report(folder, data, report, scored, changed):
    """Write a report into `folder`, its metrics.json (the dict `report`) last; `scored` is {split: Scored}.

    `changed` are the rows of changed.csv, or None.
    """
    from detector.model.scores import verdict_of
    from detector.reports import evaluation_page

    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{RESULT}{files.UNFINISHED}"  # marks the report as incomplete, for `check_folder`
    unfinished.touch()
    for old in existing_parts(folder):  # so that nothing of an earlier report remains
        old.unlink()
    thresholds = report["thresholds"]
    pairs = [pair for some in scored.values() for pair in zip(some.items, some.p_fake.tolist(), strict=True)]
    rows = [[item.path, item.label, repr(p), verdict_of(p, thresholds)] for item, p in pairs]
    write_csv(folder / "predictions.csv", ["path", "label", "p_fake", "verdict"], rows)
    if changed is not None:
        write_csv(folder / "changed.csv", ["path", "label", "p_fake", "p_fake_other", "right"], changed)
    plots = {split: draw_plots(folder, data, split, some, report["splits"][split], thresholds) for split, some in scored.items()}
    with files.atomic_write(folder / "report.html") as temporary:
        temporary.write_text(evaluation_page.render_page(report, folder, plots), "utf-8")
    with files.atomic_write(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    unfinished.unlink()


def write_csv(file, header, rows):
    """Write a table; undecodable bytes of file names are escaped."""
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def draw_plots(folder, data, split, scored, metrics, thresholds):
    """Draw the plots of one split; return {file name: alternative text}."""
    from detector.evaluation import plots

    plots.draw_all(folder, split, scored.is_fake, scored.p_fake, metrics, thresholds)
    drawn = {f"{name}_{split}.png": f"{name.replace('_', ' ')}, {split}" for name in plots.NAMES}
    if metrics["damage"]:
        plots.draw_corruptions(folder, split, metrics["damage"])
        drawn[f"corruptions_{split}.png"] = f"metrics of corrupted images, {split}"
    for kind, title in MISTAKES.items():
        entries = worst_mistakes(scored, of_fake=kind == "fake_called_real")
        if entries:
            which = f"the {plots.SHEET} worst of {len(entries):,}" if len(entries) > plots.SHEET else f"all {len(entries)}"
            line = f"{title}: {which} ({split}; P(Fake) and name below each)"
            plots.draw_sheet(folder / f"mistakes_{kind}_{split}.png", data, line, entries)
            drawn[f"mistakes_{kind}_{split}.png"] = line
    return drawn


def worst_mistakes(scored, of_fake):
    """Return [(path, caption)] of the Fake, or of the Real, images on the wrong side of 0.5, the worst first."""
    wrong = (scored.is_fake == of_fake) & ((scored.p_fake >= 0.5) != scored.is_fake)
    order = sorted(wrong.nonzero()[0], key=lambda i: abs(scored.p_fake[i] - of_fake), reverse=True)
    paths = [scored.items[i].path for i in order]
    names = [re.sub(r"^(.{9}).{2,}(.{10})$", r"\1…\2", path.split("/")[-1]) for path in paths]  # long ones without their middle
    return [(path, f"{scored.p_fake[i]:.4f}\n{printable(name)}") for path, i, name in zip(paths, order, names, strict=True)]


def show(report, folder, data, scored):
    """Print the tables for a person."""
    from detector.reports import evaluation_page as page

    for split, metrics in report["splits"].items():
        for part in page.tables(split, metrics):
            print(console.table(part["rows"], part["header"]))
            print(f"{part['note']}\n" if part["note"] else "")
    print(console.table(page.metric_rows(report), ["", *page.columns(report)]))
    for split, metrics in report["splits"].items():
        if metrics["versus"]:
            header = [f"compared with {metrics['versus']['model']}", "this", "other", f"difference ({split})"]
            print(f"\n{console.table(page.comparison_rows(metrics['versus'], metrics), header)}")
            print(f"{split}: {page.mcnemar_sentence(metrics['versus'])}")
    for split, some in scored.items():
        for reason, names in names_by_reason(data, some.unreadable).items():
            print(console.reason_line(f"not scored ({split}), {reason}", names, "image"))
    for kind, line in page.notes(report):
        print(f"{kind}: {line}")
    print("\n".join(report["headline"]))
    print(printable(f"report: {folder / 'report.html'}, {folder / RESULT}"))


def evaluate(args):
    """Score and evaluate the splits of the command line; return (report, {split: Scored}, rows of changed.csv or None)."""
    from detector.model import export, runtime
    from detector.reports import evaluation_page

    skipped = []
    splits, train = dataset.list_items(args.data, args.split, args.group_by, skipped)
    for line in skipped:
        print(line)
    open_model = runtime.KerasDetector if args.engine == "keras" else export.open_detector
    detector = open_model(args.model)
    other = open_model(args.versus) if args.versus else None
    corruptions = dataset.corruption_functions() if args.corruptions else {}
    tiers = dataset.tier_functions() if args.tiers else {}
    known = dataset.known_digests(args.data, args.model, train if set(splits) != {"train"} else None)
    variants = [*corruptions.values(), *tiers.values()]
    scored = {split: score_items(detector, args.data, items, variants) for split, items in splits.items()}
    found, changed = {}, [] if other else None
    for split, some in scored.items():
        found[split] = evaluate_split(detector, args.data, split, some, known, list(corruptions), list(tiers), args.min_group)
        if other:
            theirs = score_items(other, args.data, splits[split])
            paths = [item.path for item in some.items]
            seen = None if split == "train" else dataset.count_trained_on(args.data, paths, args.versus)
            found[split]["versus"], rows = versus(detector, some, other, theirs, seen)
            changed += rows
    lines = [evaluation_page.headline(args.model.name, split, metrics) for split, metrics in found.items()]
    return describe(args, detector, found, lines), scored, changed


def describe(args, detector, splits, lines):
    """Return the content of metrics.json."""
    from detector.model import backend

    first = next(iter(splits))
    versions = {name: version for name, version in backend.versions(*LIBRARIES).items() if name != "date"}
    return {
        "tool": "evaluate.py",
        "headline": lines,
        "split": first,
        **{name: value for name, value in splits[first].items() if name not in OWN_KEYS},
        "data": os.fspath(args.data),
        "model": os.fspath(args.model),
        "model_sha256": files.digest_of(args.model),
        "engine": args.engine,
        "device": getattr(detector, "device", "litert on cpu"),
        "versions": versions,
        "thresholds": detector.metadata["thresholds"],
        "temperature": detector.metadata["temperature"],
        "splits": splits,
    }


def make_parser():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    add = parser.add_argument
    add("model", type=Path, nargs="?", default=Path("detector.h5"), help="model file of model_training.py")
    add("--data", type=Path, default=Path("data"), help="data tree, or any folder with the two classes")
    add("--split", nargs="+", choices=data_tree.SPLITS, help="splits to evaluate (default: test, if there are splits)")
    add("--report", type=Path, default=Path("report"), help="folder to write")
    add("--overwrite", action="store_true", help="replace an existing report")
    add("--group-by", metavar="folder|REGEX", help="also evaluate groups: by the folder inside the class folder, or by the first "
        "(group) of a regular expression in the path, relative to --data")  # fmt: skip
    add("--min-group", type=console.positive_int, default=30, metavar="N",
        help="groups with fewer images of a class are pooled in the macro average")  # fmt: skip
    add("--corruptions", "--damage", action="store_true", help="also evaluate JPEG, WebP, blur, noise, scaling and a flip")
    add("--tiers", action="store_true", help="also evaluate delivery tiers: web (<= 1,080 px, JPEG 80), hard (<= 512 px, JPEG 40)")
    add("--versus", type=Path, metavar="OTHER.h5", help="compare with another model on the same images")
    add("--engine", choices=("litert", "keras"), default="litert",
        help="what computes the scores: litert, as in app.py, or Keras, on a GPU if there is one")  # fmt: skip
    return parser


@stage
def main(argv=None):
    """Evaluate a detector."""
    args = make_parser().parse_args(argv)
    check_folder(args.report, args.data, args.overwrite)
    console.require_packages(
        "sklearn", "scipy", "matplotlib", "jinja2", "h5py", *(["cv2"] if args.corruptions or args.tiers else [])
    )
    report, scored, changed = evaluate(args)
    write_report(args.report, args.data, report, scored, changed)
    show(report, args.report, args.data, scored)


if __name__ == "__main__":
    main()
