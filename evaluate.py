"""Evaluate a detector: reads MODEL.h5 and data/<split>/{Fake,Real}, or any tree of the two classes -> writes report/.

    python evaluate.py detector.h5
    python evaluate.py detector.h5 --split train test --damage
    python evaluate.py detector.h5 --data photos --group-by folder --versus other.h5

Thresholds and temperature come out of the .h5; nothing is fitted here. A score is the same as app.py's. report/ holds the
pictures, report.html (all of it on one page), predictions.csv (path, label, p_fake, verdict), with --versus changed.csv (the
images that one model gets right and the other wrong), and metrics.json, written last:

    tool, headline [a sentence for each split], data (its folder, as given), model, model_sha256, engine ("litert" or "keras"),
    device, versions, thresholds, temperature, split (the first one), and at this level also the figures and intervals of the
    first split
    splits           {split: the figures and what follows}; a tree without splits is one split, "all"
      ...            detector.evaluation.metrics.classification_metrics, raw and per_class among them; undefined ones are null
      intervals      the same without n and confusion, [low, high] each: see detector.evaluation.intervals
      unreadable     number of images that could not be read; they are not scored. unreadable_files: a line for each
      unlike_seen    number of images of a size or shape that the detector has never seen; app.py says "uncertain" to these
      leaks          {in_train, in_train_of_model, either}: number of images that stand, by SHA-256, in the train folder of the
                     same tree, and in the train set whose digests the model holds; null where there is none; the whole is null
                     for train itself
      without_leaks  figures and intervals without these images; null where there are none of them
      groups         --group-by: [{group, figures and intervals, against_all}], the lowest accuracy first; else null. against_all,
                     of a group that has one class alone, such as the images of one generator: balanced_accuracy, auc,
                     average_precision, tpr_at_1pct_fpr, tpr_at_5pct_fpr and intervals of it and all images of the other; else null
      damage         --damage: {name: figures and intervals}, "undamaged" first; else null. The decoded image is damaged,
                     then fitted. The seed of the noise comes from the image: each run has the same.
      versus         --versus: {model, model_sha256, in_train_of_other (number of images that it was trained on; null where that
                     is not known), figures (with intervals), and difference, intervals and mcnemar of
                     detector.evaluation.intervals.compare}; else null
"""
import argparse
import contextlib
import csv
import json
import os
from pathlib import Path
from typing import NamedTuple

from detector import files
from detector.console import HelpFormatter, InputError, printable, progress, require_packages, stage, table
from detector.data import tree as data_tree
from detector.evaluation import dataset

TOOL = "evaluate.py"
RESULT = "metrics.json"  # written last: without it a report is not finished
AGAINST_ALL = ("balanced_accuracy", "auc", "average_precision", "tpr_at_1pct_fpr", "tpr_at_5pct_fpr")  # that need both classes
LIBRARIES = ("ai-edge-litert", "opencv-python-headless", "scikit-learn", "scipy")  # that figures depend on, too
MISTAKES = {"real_called_fake": "Real, said to be Fake", "fake_called_real": "Fake, said to be Real"}


class Scored(NamedTuple):
    """The images of one split that could be read, in order, and a line for each of the others."""

    items: list  # of evaluation.Item
    is_fake: object  # (n,) bool
    p_fake: object  # (n,) float64, calibrated
    logits: object  # (1 + d, n) float64: undamaged, then after each damage
    unlike_seen: int
    unreadable: list  # of lines


# --- scores and figures --------------------------------------------------------------------------------------------------


def open_engine(model, engine):
    """Return what scores images: a detector.model.runtime.LiteRTDetector (engine 'litert') or KerasDetector."""
    if engine == "keras":
        from detector.model.runtime import KerasDetector

        return KerasDetector(model)
    from detector.model.export import open_detector

    return open_detector(model)


def score_items(detector, data, items, ways=()):
    """Score images; return Scored. `ways` are functions that damage an image.

    Raises:
        InputError: no image of a class can be read.
    """
    import numpy as np

    from detector.inference.scoring import score_files
    from detector.model.scores import out_of_range

    readable, p_fake, logits, unreadable, unlike = [], [], [], [], 0
    scores = score_files(detector, (os.path.join(data, item.path) for item in items), degradations=ways)
    for item, score in zip(items, progress(scores, total=len(items)), strict=True):
        if score.error:
            unreadable.append(score.error)
            continue
        readable.append(item)
        p_fake.append(score.p_fake)
        logits.append((score.logit, *score.degraded))
        unlike += out_of_range(detector.metadata, score.width, score.height, score.blank) is not None
    is_fake = np.array([item.is_fake for item in readable], bool)
    for name, there in zip(data_tree.CLASSES, (is_fake, ~is_fake), strict=True):
        if not there.any():
            first = next(item.path for item in items if item.is_fake == (name == data_tree.CLASSES[0]))
            raise InputError(f"{data / first}: expected images of class {name} that can be read, found none; run data_audit.py")
    return Scored(readable, is_fake, np.array(p_fake), np.array(logits).T, unlike, unreadable)


def evaluate_split(detector, data, split, scored, known, ways=()):
    """Return what metrics.json has of one split, besides `versus`.

    Args:
        known: digests of train images, as evaluation.known_digests returns them.
        ways: names of the damages that were scored.
    """
    import numpy as np

    from detector.evaluation.intervals import metrics_with_intervals
    from detector.model.scores import p_fake_of

    metadata = detector.metadata
    raw = p_fake_of(scored.logits, 1.0)
    calibrated = [scored.p_fake, *p_fake_of(scored.logits[1:], metadata["temperature"])]

    def measure(which=slice(None), way=0):
        return metrics_with_intervals(scored.is_fake[which], calibrated[way][which], metadata["thresholds"], raw[way][which])

    whole, groups = measure(), np.array([item.group for item in scored.items])
    rows = [
        {"group": str(name), **measure(groups == name), "against_all": against_all(scored, groups == name, measure)}
        for name in progress(sorted(set(groups) - {None}), unit="group measured")
    ]
    rows.sort(key=lambda row: (row["accuracy"], row["n"]))
    paths = [item.path for item in scored.items]
    leaks, leaked = (None, None) if split == "train" else dataset.find_leaks(data, paths, known)
    damaged = {name: measure(way=i) for i, name in progress(list(enumerate(ways, 1)), unit="damage measured")}
    return {
        **whole,
        "unreadable": len(scored.unreadable),
        "unreadable_files": scored.unreadable,
        "unlike_seen": scored.unlike_seen,
        "leaks": leaks,
        "without_leaks": measure(~leaked) if leaks and leaks["either"] else None,
        "groups": rows or None,
        "damage": {"undamaged": whole, **damaged} if ways else None,
        "versus": None,
    }


def against_all(scored, which, measure):
    """Return the figures that need both classes, of a group of one class and all images of the other; None for a group of both."""
    classes = scored.is_fake[which]
    if classes.any() and not classes.all():
        return None
    found = measure(which | (scored.is_fake != classes[0]))
    return {name: found[name] for name in AGAINST_ALL} | {
        "intervals": {name: found["intervals"][name] for name in AGAINST_ALL}
    }


def versus(detector, scored, other, other_scored, seen=None):
    """Return (what metrics.json has of the comparison, [rows of changed.csv]) for a split that both models scored.

    Args:
        seen: number of these images that the other was trained on, None where that is not known.
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
    right, other_right = ((one.p_fake >= 0.5) == scored.is_fake for one in (scored, other_scored))
    changed = [
        [item.path, dataset.label_of(item), repr(mine), repr(theirs), "this" if this else "other"]
        for item, mine, theirs, this, that in zip(
            scored.items, scored.p_fake.tolist(), other_scored.p_fake.tolist(), right, other_right, strict=True
        )
        if this != that
    ]
    return found, changed


# --- the report ----------------------------------------------------------------------------------------------------------


def check_folder(folder, data, overwrite):
    """Raise InputError where the report would replace something, lie among the data, or cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the report, found a file; choose another with --report")
    if folder.resolve().is_relative_to(data.resolve()):
        raise InputError(f"{folder}: expected a folder outside of {data}, which is only read; choose another with --report")
    there = [path.name for path in ours(folder)]
    if there and not overwrite:
        if RESULT in there:
            raise InputError(f"{folder}: a report is there already; give another --report, or --overwrite")
        if not (folder / f"{RESULT}{files.UNFINISHED}").exists():  # of an interrupted report everything may go
            raise InputError(f"{folder}: found a {there[0]} that belongs to no report; give another --report, or --overwrite")
    here = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(here, os.W_OK):
        raise InputError(f"{here}: expected a folder that can be written to; choose another with --report")


def ours(folder):
    """Return the paths of what a report consists of, the result first, as far as they are there."""
    from detector.evaluation import plots

    kinds = [*plots.NAMES, "damage", *(f"mistakes_{kind}" for kind in MISTAKES)]
    pictures = [f"{kind}_{split}.png" for kind in kinds for split in (*data_tree.SPLITS, dataset.ALL)]
    paths = [folder / name for name in (RESULT, "report.html", "predictions.csv", "changed.csv", *pictures)]
    return [path for path in paths if path.exists()]


def write_report(folder, data, report, scored, changed):
    """Write a report into `folder`, its metrics.json last.

    Args:
        data: folder that the paths are relative to.
        report: what metrics.json is to hold.
        scored: {split: Scored}.
        changed: rows of changed.csv, or None.
    """
    from detector.reports import evaluation_page

    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{RESULT}{files.UNFINISHED}"  # marks the report as incomplete, for `check_folder`
    unfinished.touch()
    for old in ours(folder):  # no figure of an earlier report stays beside ours
        old.unlink()
    thresholds = report["thresholds"]
    rows = [row for some in scored.values() for row in prediction_rows(some, thresholds)]
    write_csv(folder / "predictions.csv", ["path", "label", "p_fake", "verdict"], rows)
    if changed is not None:
        write_csv(folder / "changed.csv", ["path", "label", "p_fake", "p_fake_other", "right"], changed)
    pictures = {
        split: draw_pictures(folder, data, split, some, report["splits"][split], thresholds) for split, some in scored.items()
    }
    with files.atomic_write(folder / "report.html") as temporary:
        temporary.write_text(evaluation_page.render(report, folder, pictures), "utf-8")
    with files.atomic_write(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    unfinished.unlink()


def prediction_rows(scored, thresholds):
    """Return the rows of predictions.csv of one split."""
    from detector.model.scores import verdict_of

    pairs = zip(scored.items, scored.p_fake.tolist(), strict=True)
    return [[item.path, dataset.label_of(item), repr(p), verdict_of(p, thresholds)] for item, p in pairs]


def write_csv(file, header, rows):
    """Write a table; bytes of a file name that are no text are escaped."""
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def draw_pictures(folder, data, split, scored, figures, thresholds):
    """Draw the pictures of one split; return {file name: alternative text}."""
    from detector.evaluation import plots

    plots.draw_all(folder, split, scored.is_fake, scored.p_fake, figures, thresholds)
    drawn = {f"{name}_{split}.png": f"{name.replace('_', ' ')}, {split}" for name in plots.NAMES}
    if figures["damage"]:
        plots.draw_damage(folder, split, figures["damage"])
        drawn[f"damage_{split}.png"] = f"figures of damaged images, {split}"
    for kind, title in MISTAKES.items():
        entries = worst_mistakes(scored, of_fake=kind == "fake_called_real")
        if entries:
            which = f"the {plots.SHEET} worst of {len(entries):,}" if len(entries) > plots.SHEET else f"all {len(entries)}"
            line = f"{title}: {which} ({split}; below each its P(Fake) and name)"
            plots.draw_sheet(folder / f"mistakes_{kind}_{split}.png", data, line, entries)
            drawn[f"mistakes_{kind}_{split}.png"] = line
    return drawn


def worst_mistakes(scored, of_fake):
    """Return [(path, caption)] of the Fake, or of the Real, images on the wrong side of 0.5, the worst first."""
    wrong = (scored.is_fake == of_fake) & ((scored.p_fake >= 0.5) != scored.is_fake)
    order = sorted(wrong.nonzero()[0], key=lambda i: abs(scored.p_fake[i] - of_fake), reverse=True)
    return [(scored.items[i].path, f"{scored.p_fake[i]:.4f}\n{printable(short_name(scored.items[i].path))}") for i in order]


def short_name(path, most=20):
    """Return the name of a file, without its middle where it is long."""
    name = path.split("/")[-1]
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def show(report, folder):
    """Print the tables for a person."""
    from detector.reports import evaluation_page

    for split, figures in report["splits"].items():
        for line in figures["unreadable_files"][:10]:
            print(f"not scored: {printable(line)}")
        if figures["groups"]:
            named = {row["group"]: row for row in figures["groups"]}
            note = evaluation_page.footnote(named)
            rows = table(evaluation_page.short_rows(named), evaluation_page.short_header(f"groups of {split}"))
            print(f"{rows}\n{note}\n" if note else f"{rows}\n")
        if figures["damage"]:
            print(f"{table(evaluation_page.short_rows(figures['damage']), evaluation_page.short_header(f'damaged {split}'))}\n")
    print(table(evaluation_page.figure_rows(report), ["", *evaluation_page.columns(report)]))
    for split, figures in report["splits"].items():
        if figures["versus"]:
            header = [f"against {figures['versus']['model']}", "this", "other", f"difference ({split})"]
            print(f"\n{table(evaluation_page.comparison_rows(figures['versus'], figures), header)}")
            print(f"{split}: {evaluation_page.mcnemar_sentence(figures['versus'])}")
    for kind, line in evaluation_page.notes(report):
        print(f"{kind}: {line}")
    print("\n".join(report["headline"]))
    print(printable(f"report: {folder / 'report.html'}, {folder / RESULT}"))


# --- the command line ----------------------------------------------------------------------------------------------------


def evaluate(args):
    """Score and measure what the command line names; return (report, {split: Scored}, rows of changed.csv or None)."""
    from detector.reports import evaluation_page

    splits, train = dataset.list_items(args.data, args.split, args.group_by)
    detector = open_engine(args.model, args.engine)
    other = open_engine(args.versus, args.engine) if args.versus else None
    ways = dataset.damages() if args.damage else {}
    known = dataset.known_digests(args.data, args.model, train if set(splits) != {"train"} else None)
    scored = {split: score_items(detector, args.data, items, list(ways.values())) for split, items in splits.items()}
    found, changed = {}, [] if other else None
    for split, some in scored.items():
        found[split] = evaluate_split(detector, args.data, split, some, known, list(ways))
        if other:
            theirs = score_items(other, args.data, splits[split])
            paths = [item.path for item in some.items]
            seen = None if split == "train" else dataset.count_trained_on(args.data, paths, args.versus)
            found[split]["versus"], rows = versus(detector, some, other, theirs, seen)
            changed += rows
    lines = []
    for split, some in scored.items():
        counts = {"Fake": int(some.is_fake.sum()), "Real": int((~some.is_fake).sum())}
        lines.append(evaluation_page.headline(args.model.name, split, found[split], counts))
    return describe(args, detector, found, lines), scored, changed


def describe(args, detector, splits, lines):
    """Return what metrics.json holds."""
    from importlib import metadata

    from detector.model import backend

    first = next(iter(splits))
    extra = ("unreadable", "unreadable_files", "unlike_seen", "leaks", "without_leaks", "groups", "damage", "versus")
    versions = {name: version for name, version in backend.versions().items() if name != "date"}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "tool": TOOL,
        "headline": lines,
        "split": first,
        **{name: value for name, value in splits[first].items() if name not in extra},
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
    add("model", type=Path, nargs="?", default=Path("detector.h5"), help="model file that model_training.py wrote")
    add("--data", type=Path, default=Path("data"), help="data tree, or any folder with the two classes")
    add("--split", nargs="+", choices=data_tree.SPLITS, help="splits to evaluate (default: test, where there are splits)")
    add("--report", type=Path, default=Path("report"), help="folder to write")
    add("--overwrite", action="store_true", help="replace a report that is there")
    add("--group-by", metavar="folder|REGEX", help="figures of each group, too: by the folder inside the class folder, or by "
        "what the first (group) of a regular expression finds in the path, relative to --data")  # fmt: skip
    add("--damage", action="store_true", help="figures after JPEG, WebP, blur, noise, scaling and a flip, too")
    add("--versus", type=Path, metavar="OTHER.h5", help="compare with another model on the same images")
    add("--engine", choices=("litert", "keras"), default="litert",
        help="what computes the scores: litert, as app.py does, or Keras, with a GPU where there is one")  # fmt: skip
    return parser


@stage
def main(argv=None):
    """Evaluate a detector."""
    args = make_parser().parse_args(argv)
    check_folder(args.report, args.data, args.overwrite)
    require_packages("sklearn", "scipy", "matplotlib", "h5py", *(["cv2"] if args.damage else []))
    report, scored, changed = evaluate(args)
    write_report(args.report, args.data, report, scored, changed)
    show(report, args.report)


if __name__ == "__main__":
    main()
