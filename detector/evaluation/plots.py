"""The pictures of a report. One look: Okabe and Ito's palette, and a line, marker or hatch that tells what grey print does not."""
import contextlib
import os
import warnings

import numpy as np

from detector.console import plural
from detector.data.tree import CLASSES

NAMES = ("confusion", "roc", "precision_recall", "reliability", "scores")
FAKE, REAL, INK, GREY = "#e69f00", "#0072b2", "black", "0.55"  # the two colours of the classes differ in grey, too
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130,
         "legend.edgecolor": "none", "legend.facecolor": "white", "legend.framealpha": 0.9}  # fmt: skip
SHEET, ACROSS, TILE = 24, 8, 128  # images on a contact sheet, in a row, and the most pixels of a side
POINT = {"color": INK, "markerfacecolor": "white", "linestyle": "none", "clip_on": False, "zorder": 3}
SERIES = {  # of the damage plot: figure -> (label, colour, line, marker)
    "accuracy": ("accuracy", REAL, "-", "o"),
    "auc": ("AUC", INK, "--", "s"),
    "real_called_fake": ("Real called Fake", FAKE, "-.", "^"),
    "uncertain_share": ("uncertain", GREY, ":", "D"),
}


@contextlib.contextmanager
def _picture(file, width=5.0, height=4.2):
    """Give the axes of a picture in the common look, which is saved as `file`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # a file name may be in a script that the font lacks: it shows boxes
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        yield axes
        figure.savefig(file)
        plt.close(figure)


def draw_all(folder, split, is_fake, p_fake, figures, thresholds):
    """Draw the pictures of one split into `folder` as <name>_<split>.png, for each of NAMES.

    Args:
        folder: pathlib.Path.
        split: name of the split.
        is_fake, p_fake: (n,) bool and (n,) float64; both classes occur.
        figures: dict of detector.evaluation.intervals.metrics_with_intervals.
        thresholds: {'fake': t_F, 'real': t_R}.
    """
    draw = {
        "confusion": lambda axes: _confusion(axes, figures["confusion"]),
        "roc": lambda axes: _roc(axes, is_fake, p_fake, thresholds, figures),
        "precision_recall": lambda axes: _precision_recall(axes, is_fake, p_fake, thresholds, figures),
        "reliability": lambda axes: _reliability(axes, is_fake, p_fake, figures),
        "scores": lambda axes: _scores(axes, is_fake, p_fake, thresholds),
    }
    for name in NAMES:
        with _picture(folder / f"{name}_{split}.png") as axes:
            draw[name](axes)
            axes.set_title(f"{axes.get_title()} ({split}, {len(is_fake):,} images)", fontsize=10)


def _with_interval(label, figures, name):
    low, high = figures["intervals"][name]
    return f"{label} {figures[name]:.4f} ({low:.4f} to {high:.4f})"


def _operating_points(thresholds):
    """Return (threshold, marker, label) of the points that the curves show."""
    return (
        (thresholds["fake"], "o", f"verdict Fake, from {thresholds['fake']:.3f} on"),
        (0.5, "s", "more likely Fake, from 0.5 on"),
        (np.nextafter(thresholds["real"], 2), "D", f"not the verdict Real, above {thresholds['real']:.3f}"),
    )


def _confusion(axes, confusion):
    counts = np.array(confusion)
    rates = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(rates, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        colour = "white" if rates[i, j] > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]:,}\n{rates[i, j]:.2%}", ha="center", va="center", color=colour, fontsize=13)
    axes.set(xticks=[0, 1], xticklabels=CLASSES, yticks=[0, 1], yticklabels=CLASSES, title="Confusion")
    axes.set(xlabel="said to be (Fake from P(Fake) 0.5 on)", ylabel="is")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _roc(axes, is_fake, p_fake, thresholds, figures):
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(is_fake, p_fake)
    axes.plot([0, *false_positive], [0, *true_positive], color=REAL, linewidth=1.8, label=_with_interval("AUC", figures, "auc"))
    for threshold, marker, label in _operating_points(thresholds):
        at = p_fake >= threshold
        axes.plot(at[~is_fake].mean(), at[is_fake].mean(), marker, **POINT, label=label)
    chance = np.linspace(0, 1, 200)
    axes.plot(chance, chance, color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlim=(-0.0004, 1), xticks=[0, 0.01, 0.1, 1], xticklabels=["0", "1 %", "10 %", "100 %"], ylim=(0, 1.01), title="ROC")
    axes.set(xlabel="false positive rate (Real called Fake); linear up to 1 %", ylabel="true positive rate (Fake called Fake)")
    axes.legend(loc="lower right")


def _precision_recall(axes, is_fake, p_fake, thresholds, figures):
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_fake, p_fake)
    label = _with_interval("average precision", figures, "average_precision")
    axes.plot(recall, precision, color=REAL, linewidth=1.8, label=label, drawstyle="steps-pre")
    for threshold, marker, label in _operating_points(thresholds):
        at = p_fake >= threshold
        if at.any():
            axes.plot(at[is_fake].mean(), is_fake[at].mean(), marker, **POINT, label=label)
    share = is_fake.mean()
    axes.axhline(share, color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set(xlim=(0, 1.01), ylim=(min(0.5, share) - 0.02, 1.01), xlabel="recall of Fake", ylabel="precision of Fake")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.06))


def _reliability(axes, is_fake, p_fake, figures):
    from scipy.stats import binomtest

    from detector.evaluation.metrics import reliability

    mean, share, count = reliability(is_fake, p_fake)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    fakes = np.rint(share * count).astype(int).tolist()
    exact = [binomtest(k, n).proportion_ci() for k, n in zip(fakes, count.tolist(), strict=True)]  # Clopper-Pearson
    spread = np.maximum(0, [share - [one.low for one in exact], [one.high for one in exact] - share])  # rounding may give -1e-17
    label = f"{plural(len(count), 'bin')} of as many images, {_with_interval('ECE', figures, 'ece')}"
    axes.errorbar(mean, share, spread, fmt="o-", color=REAL, linewidth=1.5, markersize=4, capsize=2, label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.2), xlabel="P(Fake), mean of the bin", ylabel="share that is Fake")
    axes.set(yticks=np.linspace(0, 1, 6), title="Reliability")
    axes.legend(loc="upper left")


def _scores(axes, is_fake, p_fake, thresholds):
    bins = np.linspace(0, 1, 51)
    axes.axvspan(thresholds["real"], thresholds["fake"], facecolor="0.92", edgecolor=GREY, zorder=0, label="uncertain")
    axes.hist(p_fake[~is_fake], bins, histtype="stepfilled", color=REAL, alpha=0.9, label="Real")
    axes.hist(p_fake[is_fake], bins, histtype="step", color=FAKE, hatch="////", linewidth=1.8, label="Fake")
    axes.set(yscale="log", xlim=(0, 1), xlabel="P(Fake)", ylabel="images (log scale)", title="Scores")
    axes.margins(y=0.25)
    axes.legend(loc="upper center", ncols=3)


def draw_damage(folder, split, damage):
    """Draw what damage does as damage_<split>.png.

    Args:
        damage: {name such as 'JPEG 90': dict of metrics_with_intervals}; the first one is of images as they are. Names that
            begin with the same word are joined by a line.
    """
    names = list(damage)
    with _picture(folder / f"damage_{split}.png", 8.5, 4.2) as axes:
        for figure, (label, colour, line, marker) in SERIES.items():
            for start, end in _runs([name.split()[0] for name in names]):
                x = np.arange(start, end)
                values = np.array([damage[name][figure] for name in names[start:end]], float)
                spans = np.array([damage[name]["intervals"][figure] for name in names[start:end]], float).T
                axes.errorbar(x, values, np.abs(spans - values), fmt=line + marker, color=colour, markersize=4, capsize=2,
                              linewidth=1.3, label=label if start == 0 else None)  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set(ylim=(-0.02, 1.02), ylabel="share, or AUC", title=f"Damaged images ({split}, {damage[names[0]]['n']:,} images)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _runs(values):
    """Return (start, end) of each run of equal values."""
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))


def draw_sheet(file, data, title, entries):
    """Draw a contact sheet.

    Args:
        file: pathlib.Path of the picture.
        data: folder that the paths are relative to.
        title: what is shown.
        entries: list of (path, caption), at most SHEET are shown.
    """
    entries = entries[:SHEET]
    rows = -(-len(entries) // ACROSS)
    with _picture(file, 9.0, 0.45 + 1.55 * rows) as axes:
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(0, ACROSS), ylim=(rows * 1.36, 0), aspect="equal")
        axes.axis("off")
        for i, (path, caption) in enumerate(entries):
            image = _thumbnail(os.path.join(data, path))
            height, width = image.shape[:2]
            wide, high = (0.92 * side / max(image.shape[:2]) for side in (width, height))
            x, y = i % ACROSS + 0.5, i // ACROSS * 1.36 + 0.5
            sharp = "nearest" if max(image.shape[:2]) <= 64 else "auto"  # small images are shown pixel by pixel
            axes.imshow(image, extent=(x - wide / 2, x + wide / 2, y + high / 2, y - high / 2), interpolation=sharp)
            axes.text(x, y + 0.5, caption, ha="center", va="top", fontsize=7, parse_math=False)
        axes.set(xlim=(0, ACROSS), ylim=(rows * 1.36, 0))


def _thumbnail(path):
    from PIL import Image

    from detector.images import pixels

    image = Image.fromarray(pixels.read_image(path))
    image.thumbnail((TILE, TILE))
    return np.asarray(image)
