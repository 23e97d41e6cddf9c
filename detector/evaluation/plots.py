"""Plots of a report, in Okabe and Ito's palette; lines, markers and hatches differ too, so that they survive grey print."""

import contextlib
import itertools
import os
import warnings

import numpy as np
from PIL import Image

from detector.console import InputError, plural
from detector.data.tree import CLASSES
from detector.evaluation.metrics import reliability
from detector.images import pixels

NAMES = ("confusion", "roc", "precision_recall", "reliability", "scores")
FAKE, REAL, INK, GREY = "#e69f00", "#0072b2", "black", "0.55"  # the colours of the classes also differ in grey
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130,
         "legend.edgecolor": "none", "legend.facecolor": "white", "legend.framealpha": 0.9}  # fmt: skip
SHEET, ACROSS, TILE = 24, 8, 128  # images on a contact sheet, in a row, and the most pixels of a side
POINT = {"color": INK, "markerfacecolor": "white", "linestyle": "none", "clip_on": False, "zorder": 3}
SERIES = {  # of the corruption plot: metric -> (label, colour, line, marker)
    "accuracy": ("accuracy", REAL, "-", "o"),
    "auc": ("AUC", INK, "--", "s"),
    "real_called_fake": ("false positives", FAKE, "-.", "^"),
    "abstention_rate": ("abstention", GREY, ":", "D"),
}


@contextlib.contextmanager
def _plot(file, width=5.0, height=4.2):
    """Yield the axes of a plot in the common style, which is then saved as `file`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # the font may lack characters of a file name: boxes are shown
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        yield axes
        figure.savefig(file)
        plt.close(figure)


def draw_all(folder, split, is_fake, p_fake, metrics, thresholds):
    """Draw the plots of one split into `folder` as <name>_<split>.png, for each of NAMES.

    Args:
        is_fake, p_fake: (n,) bool and (n,) float64; both classes occur.
        metrics: dict of detector.evaluation.intervals.metrics_with_intervals.
        thresholds: {'fake': t_F, 'real': t_R}.
    """
    for name, draw in zip(NAMES, (_confusion, _roc, _precision_recall, _reliability, _scores), strict=True):
        with _plot(folder / f"{name}_{split}.png") as axes:
            draw(axes, is_fake, p_fake, thresholds, metrics)
            axes.set_title(f"{axes.get_title()} ({split}, {len(is_fake):,} images)", fontsize=10)


def _with_interval(label, metrics, name):
    low, high = metrics["intervals"][name]
    return f"{label} {metrics[name]:.4f} ({low:.4f} to {high:.4f})"


def _operating_points(thresholds):
    """Return (threshold, marker, label) of the operating points on the curves."""
    fake, real = thresholds["fake"], thresholds["real"]
    not_real = (np.nextafter(real, 2), "D", f"not verdict Real: P(Fake) > {real:.3f}")
    return ((fake, "o", f"verdict Fake: P(Fake) ≥ {fake:.3f}"), (0.5, "s", "P(Fake) ≥ 0.5"), not_real)


def _confusion(axes, is_fake, p_fake, thresholds, metrics):
    counts = np.array(metrics["confusion"])
    rates = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(rates, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        colour = "white" if rates[i, j] > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]:,}\n{rates[i, j]:.2%}", ha="center", va="center", color=colour, fontsize=13)
    axes.set(xticks=[0, 1], xticklabels=CLASSES, yticks=[0, 1], yticklabels=CLASSES, title="Confusion")
    axes.set(xlabel="predicted class (Fake if P(Fake) ≥ 0.5)", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _roc(axes, is_fake, p_fake, thresholds, metrics):
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(is_fake, p_fake)
    axes.plot([0, *false_positive], [0, *true_positive], color=REAL, linewidth=1.8, label=_with_interval("AUC", metrics, "auc"))
    for threshold, marker, label in _operating_points(thresholds):
        at = p_fake >= threshold
        axes.plot(at[~is_fake].mean(), at[is_fake].mean(), marker, **POINT, label=label)
    chance = np.linspace(0, 1, 200)
    axes.plot(chance, chance, color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlim=(-0.0004, 1), xticks=[0, 0.01, 0.1, 1], xticklabels=["0", "1 %", "10 %", "100 %"], ylim=(0, 1.01), title="ROC")
    axes.set(xlabel="false positive rate (Real called Fake); linear up to 1 %", ylabel="true positive rate (Fake called Fake)")
    axes.legend(loc="lower right")


def _precision_recall(axes, is_fake, p_fake, thresholds, metrics):
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_fake, p_fake)
    label = _with_interval("average precision", metrics, "average_precision")
    axes.plot(recall, precision, color=REAL, linewidth=1.8, label=label, drawstyle="steps-pre")
    for threshold, marker, label in _operating_points(thresholds):
        at = p_fake >= threshold
        if at.any():
            axes.plot(at[is_fake].mean(), is_fake[at].mean(), marker, **POINT, label=label)
    base_rate = is_fake.mean()
    axes.axhline(base_rate, color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(xlim=(0, 1.01), ylim=(min(0.5, base_rate) - 0.02, 1.01), xlabel="recall of Fake", ylabel="precision of Fake")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.06))


def _reliability(axes, is_fake, p_fake, thresholds, metrics):
    from scipy.stats import binomtest

    mean, fraction, count = reliability(is_fake, p_fake)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    fakes = np.rint(fraction * count).astype(int).tolist()
    exact = [binomtest(k, n).proportion_ci() for k, n in zip(fakes, count.tolist(), strict=True)]  # Clopper-Pearson
    low, high = ([getattr(one, end) for one in exact] for end in ("low", "high"))
    spread = np.maximum(0, [fraction - low, high - fraction])  # rounding may give -1e-17
    label = f"{plural(len(count), 'bin')} of equal mass, {_with_interval('ECE', metrics, 'ece')}"
    axes.errorbar(mean, fraction, spread, fmt="o-", color=REAL, linewidth=1.5, markersize=4, capsize=2, label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.2), xlabel="P(Fake), mean of the bin", ylabel="fraction of Fake")
    axes.set(yticks=np.linspace(0, 1, 6), title="Reliability")
    axes.legend(loc="upper left")


def _scores(axes, is_fake, p_fake, thresholds, metrics):
    bins = np.linspace(0, 1, 51)
    axes.axvspan(thresholds["real"], thresholds["fake"], facecolor="0.92", edgecolor=GREY, zorder=0, label="uncertain")
    axes.hist(p_fake[~is_fake], bins, histtype="stepfilled", color=REAL, alpha=0.9, label="Real")
    axes.hist(p_fake[is_fake], bins, histtype="step", color=FAKE, hatch="////", linewidth=1.8, label="Fake")
    axes.set(yscale="log", xlim=(0, 1), xlabel="P(Fake)", ylabel="images (log scale)", title="Scores")
    axes.margins(y=0.25)
    axes.legend(loc="upper center", ncols=3)


def draw_corruptions(folder, split, corrupted):
    """Plot the metrics of corrupted images as corruptions_<split>.png.

    Args:
        corrupted: {name such as 'JPEG 90': dict of metrics_with_intervals}; the original images come first. Names that begin with
            the same word are joined by a line.
    """
    names = list(corrupted)
    with _plot(folder / f"corruptions_{split}.png", 8.5, 4.2) as axes:
        for metric, (label, colour, line, marker) in SERIES.items():
            for _, run in itertools.groupby(range(len(names)), key=lambda i: names[i].split()[0]):
                x = list(run)
                rows = [corrupted[names[i]] for i in x]
                values = np.array([row[metric] for row in rows], float)
                spans = np.array([row["intervals"][metric] for row in rows], float).T
                axes.errorbar(x, values, np.abs(spans - values), fmt=line + marker, color=colour, markersize=4, capsize=2,
                              linewidth=1.3, label=label if x[0] == 0 else None)  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        title = f"Corrupted images ({split}, {corrupted[names[0]]['n']:,} images)"
        axes.set(ylim=(-0.02, 1.02), ylabel="fraction, or AUC", title=title)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_sheet(file, data, title, entries):
    """Draw a contact sheet into a PNG file; `entries` are (path relative to data, caption), of which at most SHEET are shown."""
    entries = entries[:SHEET]
    rows = -(-len(entries) // ACROSS)
    with _plot(file, 9.0, 0.45 + 1.55 * rows) as axes:
        axes.set_title(title, fontsize=10)
        axes.axis("off")
        for i, (path, caption) in enumerate(entries):
            try:
                image = Image.fromarray(pixels.read_image(os.path.join(data, path)))
            except (InputError, OSError):  # it was readable when it was scored
                continue
            image.thumbnail((TILE, TILE))
            longest = max(image.size)
            wide, high = (0.92 * side / longest for side in image.size)
            x, y = i % ACROSS + 0.5, i // ACROSS * 1.36 + 0.5
            interpolation = "nearest" if longest <= 64 else "auto"  # small images are shown pixel by pixel
            axes.imshow(image, extent=(x - wide / 2, x + wide / 2, y + high / 2, y - high / 2), interpolation=interpolation)
            axes.text(x, y + 0.5, caption, ha="center", va="top", fontsize=7, parse_math=False)
        axes.set(xlim=(0, ACROSS), ylim=(rows * 1.36, 0), aspect="equal")
