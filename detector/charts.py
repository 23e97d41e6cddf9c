"""The pictures of a report. One look: two colours that differ in grey print too (Okabe and Ito's palette), no grid."""
import numpy as np

from detector.data_tree import CLASSES

NAMES = ("confusion", "roc", "precision_recall", "reliability", "scores")
FAKE, REAL, GREY = "#d55e00", "#0072b2", "0.55"


def draw_all(folder, split, rows, figures, thresholds):
    """Draw the pictures of one split into `folder` as <name>_<split>.png.

    Args:
        folder: pathlib.Path.
        split: name of the split.
        rows: list of (path, label 0 or 1, detector.scoring.Score).
        figures: dict of detector.metrics.figures.
        thresholds: {'fake': t_F, 'real': t_R}.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    is_fake = np.array([label == 0 for _, label, _ in rows])
    p_fake = np.array([score.p_fake for _, _, score in rows])
    pictures = {
        "confusion": lambda axes: _confusion(axes, figures["confusion"]),
        "roc": lambda axes: _roc(axes, is_fake, p_fake, thresholds, figures["auc"]),
        "precision_recall": lambda axes: _precision_recall(axes, is_fake, p_fake, figures["average_precision"]),
        "reliability": lambda axes: _reliability(axes, is_fake, p_fake, figures["ece"]),
        "scores": lambda axes: _scores(axes, is_fake, p_fake, thresholds),
    }
    for name, draw in pictures.items():
        figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
        draw(axes)
        axes.set_title(f"{axes.get_title()} ({split}, {len(rows):,} images)", fontsize=10)
        figure.savefig(folder / f"{name}_{split}.png", dpi=120)
        plt.close(figure)


def _confusion(axes, confusion):
    counts = np.array(confusion)
    rates = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(rates, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        colour = "white" if rates[i, j] > 0.5 else "black"
        axes.text(j, i, f"{counts[i, j]:,}\n{rates[i, j]:.2%}", ha="center", va="center", color=colour)
    axes.set(xticks=[0, 1], xticklabels=CLASSES, yticks=[0, 1], yticklabels=CLASSES, title="Confusion")
    axes.set(xlabel="said to be (from P(Fake) 0.5 on: Fake)", ylabel="is")


def _roc(axes, is_fake, p_fake, thresholds, auc):
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(is_fake, p_fake)
    axes.plot(false_positive, true_positive, color=FAKE, label=f"AUC {auc:.4f}")
    at = p_fake >= thresholds["fake"]
    axes.plot(at[~is_fake].mean(), at[is_fake].mean(), "o", color="black", label="threshold of the verdict Fake")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), title="ROC")
    axes.set(xlabel="false positive rate (Real called Fake)", ylabel="true positive rate (Fake called Fake)")
    axes.legend(loc="lower right")


def _precision_recall(axes, is_fake, p_fake, average_precision):
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_fake, p_fake)
    axes.plot(recall, precision, color=FAKE, label=f"average precision {average_precision:.4f}")
    axes.set(xlim=(0, 1), ylim=(min(0.5, is_fake.mean()), 1.01), xlabel="recall of Fake", ylabel="precision of Fake")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left")


def _reliability(axes, is_fake, p_fake, ece):
    from detector.metrics import reliability

    mean, share, _ = reliability(is_fake.astype(float), p_fake)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfectly calibrated")
    axes.plot(mean, share, "o-", color=FAKE, label=f"15 bins of equal mass, ECE {ece:.4f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="P(Fake)", ylabel="share that is Fake", title="Reliability")
    axes.legend(loc="upper left")


def _scores(axes, is_fake, p_fake, thresholds):
    bins = np.linspace(0, 1, 51)
    axes.hist(p_fake[~is_fake], bins, color=REAL, alpha=0.75, label="Real")
    axes.hist(p_fake[is_fake], bins, histtype="step", color=FAKE, linewidth=1.8, label="Fake")
    axes.axvspan(thresholds["real"], thresholds["fake"], color="0.9", zorder=0, label="uncertain")
    axes.set(yscale="log", xlim=(0, 1), xlabel="P(Fake)", ylabel="images (log scale)", title="Scores")
    axes.legend(loc="upper center")
