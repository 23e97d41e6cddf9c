"""Evaluate a detector: reads MODEL.h5 and data/<split>/{Fake,Real} -> writes report/.

    python evaluate.py detector.h5 --split test

report/ holds metrics.json (the figures of detector.metrics.figures: those of the first split at the top, those of each
under "splits"), predictions.csv (path, label, p_fake,
verdict) and the pictures. Thresholds and temperature come out of the .h5; nothing is fitted here.
"""
import argparse
import csv
import json
import os
from pathlib import Path

from detector import data_tree
from detector.console import HelpFormatter, InputError, plural, progress, require_packages, stage, table


def score_split(detector, data, split):
    """Score one split.

    Returns:
        (rows, unreadable): a list of (path relative to data, label 0 or 1, Score), and a list of one-line errors.

    Raises:
        InputError: the split is missing a class, or no image of a class can be read.
    """
    from detector.scoring import score_files

    paths, labels = data_tree.read_tree(data, (split,))[split]
    scores = score_files(detector, [os.path.join(data, path) for path in paths])
    rows, unreadable = [], []
    for path, label, score in zip(paths, labels, progress(scores, total=len(paths)), strict=True):
        if score.error:
            unreadable.append(score.error)
        else:
            rows.append((path, label, score))
    for label, name in enumerate(data_tree.CLASSES):
        if not any(row[1] == label for row in rows):
            raise InputError(f"{data / split / name}: expected images that can be read, found none; run data_audit.py")
    return rows, unreadable


def split_figures(detector, rows):
    """Return the figures of one split as a dict, from the rows of `score_split`."""
    from detector import metrics

    is_fake = [label == 0 for _, label, _ in rows]
    return metrics.figures(is_fake, [score.p_fake for _, _, score in rows], detector.facts["thresholds"])


def write_report(folder, model, detector, results):
    """Write metrics.json, predictions.csv and the pictures of the splits into `folder`, the JSON last."""
    from detector import charts

    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / "metrics.json", *(folder / f"{name}_{split}.png" for name in charts.NAMES for split in data_tree.SPLITS)]:
        old.unlink(missing_ok=True)  # of an earlier report: no figure of it stays beside ours
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "p_fake", "verdict"])
        for rows, _, _ in results.values():
            for path, label, score in rows:
                writer.writerow([path, data_tree.CLASSES[label], repr(score.p_fake), detector.verdict(score.p_fake)])
    for split, (rows, _, figures) in results.items():
        charts.draw_all(folder, split, rows, figures, detector.facts["thresholds"])
    first = next(iter(results.values()))[2]
    report = {
        "split": next(iter(results)),
        **first,
        "model": os.fspath(model),
        "engine": "litert",
        "thresholds": detector.facts["thresholds"],
        "temperature": detector.facts["temperature"],
        "splits": {split: {**figures, "unreadable": len(unreadable)} for split, (_, unreadable, figures) in results.items()},
    }
    unfinished = folder / f"metrics.json{data_tree.UNFINISHED}"
    unfinished.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    os.replace(unfinished, folder / "metrics.json")


def summary(results):
    """Return a short table of the figures, a column for each split."""
    names = {
        "n": "images",
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "auc": "AUC",
        "average_precision": "average precision",
        "tpr_at_1pct_fpr": "TPR at 1 % FPR",
        "ece": "ECE",
        "uncertain_share": "share of uncertain verdicts",
        "accuracy_when_certain": "accuracy of the others",
        "real_called_fake": "share of Real called Fake",
    }

    def shown(value):
        return "none" if value is None else value if isinstance(value, int) else f"{value:.4f}"

    rows = [[label, *(shown(figures[name]) for _, _, figures in results.values())] for name, label in names.items()]
    for name in data_tree.CLASSES:
        for figure in ("precision", "recall", "f1"):
            rows.append([f"{figure} of {name}", *(shown(figures["per_class"][name][figure]) for _, _, figures in results.values())])
    return table(rows, ["", *results])


@stage
def main(argv=None):
    """Evaluate a detector."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=HelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("detector.h5"), help="model file that model_training.py wrote")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data tree")
    parser.add_argument("--split", nargs="+", choices=data_tree.SPLITS, default=["test"], help="splits to evaluate")
    parser.add_argument("--report", type=Path, default=Path("report"), help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    args = parser.parse_args(argv)
    if (args.report / "metrics.json").exists() and not args.overwrite:
        raise InputError(f"{args.report}: a report is there already; give another --report, or --overwrite")
    require_packages("sklearn", "matplotlib")
    from detector.model_file import open_detector

    detector = open_detector(args.model)
    results = {}
    for split in args.split:
        rows, unreadable = score_split(detector, args.data, split)
        results[split] = rows, unreadable, split_figures(detector, rows)
        for line in unreadable[:10]:
            print(f"not scored: {line}")
        if unreadable:
            print(f"{plural(len(unreadable), 'image')} of {split} could not be read and were not scored")
    write_report(args.report, args.model, detector, results)
    print(summary(results))
    print(f"report written to {args.report}")


if __name__ == "__main__":
    main()
