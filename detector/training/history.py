"""The history of a run: history.csv, its plots, and what is said about the end of training."""

import csv
from pathlib import Path

PLOTTED = ("loss", "cross_entropy", "accuracy", "precision", "recall", "auc", "f1")


def strict_stop_epoch(history: list[dict], after: int = 0) -> int | None:
    """Return the epoch, from 1, at which the rule 'exceeds' with patience 1 ends a run, or None; other runs report it, too."""
    return next((row["epoch"] for row in history if row["epoch"] > after and row["val_loss"] > row["loss"]), None)


def with_derived(history: list[dict]) -> list[dict]:
    """Return the history with f1 and val_f1 (of Fake), and `exceeds`: 1 if the validation loss exceeds the training loss."""

    def f1(row, of=""):
        precision, recall = row[f"{of}precision"], row[f"{of}recall"]
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    return [row | {"f1": f1(row), "val_f1": f1(row, "val_"), "exceeds": int(row["val_loss"] > row["loss"])} for row in history]


def write_history(history: list[dict], folder: Path) -> None:
    """Write history.csv (of callbacks.Checkpoint.history) and a plot per metric, with the best epoch marked, into a folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    history = with_derived(history)
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    epochs = [row["epoch"] for row in history]
    best = min(history, key=lambda row: row["val_loss"])["epoch"]
    for metric in PLOTTED:
        name = metric.replace("_", " ")
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.plot(epochs, [row[metric] for row in history], "o-", color="0.55", label="train")
        axes.plot(epochs, [row[f"val_{metric}"] for row in history], "s-", color="#0057b8", label="validation")
        axes.axvline(best, color="0.3", linestyle=":", label=f"lowest validation loss (epoch {best})")
        axes.set(xlabel="epoch", ylabel=name, title=f"{name} by epoch")
        axes.locator_params(axis="x", integer=True)
        axes.legend()
        figure.savefig(folder / f"{metric}.png", dpi=120)
        plt.close(figure)


def draw_architecture(model, folder: Path) -> None:
    """Write the summary of a network as text and, if Graphviz is installed, draw it."""
    import keras

    lines = []
    model.summary(print_fn=lambda line, line_break=None: lines.append(line), line_length=110)
    (folder / "architecture.txt").write_text("\n".join(lines) + "\n", "utf-8")
    try:
        keras.utils.plot_model(model, folder / "architecture.png", show_shapes=True, show_layer_names=True, dpi=80)
    except (ImportError, OSError, AssertionError):
        print("architecture.png not drawn: it needs Graphviz (https://graphviz.org/download); see architecture.txt")


def stop_summary(rule, history: list[dict], epochs: int, interrupted: bool = False, head_epochs: int = 0) -> str:
    """Return lines on why training ended, which weights are kept, and where the rule 'exceeds' would have stopped.

    `rule` is a callbacks.StopTrainingOnValidationLoss, `epochs` the planned number, `head_epochs` of them for the head alone.
    """
    if not history:
        return "no epoch was trained: the weights are the initial ones"
    strict = _strict_stop(history, head_epochs)
    kept = f"kept: the weights of epoch {rule.best_epoch} (lowest validation loss, {rule.best_loss:.4f}){strict}"
    if not rule.stopped_epoch:
        return f"{'interrupted' if interrupted else 'done'} after epoch {len(history)} of {epochs}; {kept}"
    last = history[rule.stopped_epoch - 1]
    if rule.rule == "plateau":
        reason = f"validation loss {last['val_loss']:.4f} is no lower than {rule.best_loss:.4f} of epoch {rule.best_epoch}"
    else:
        reason = f"validation loss {last['val_loss']:.4f} exceeds training loss {last['loss']:.4f}"
    plain = f"without penalties {last['val_cross_entropy']:.4f} and {last['cross_entropy']:.4f}"
    return f"stopped after epoch {rule.stopped_epoch} of {epochs}: {reason} ({plain}); {kept}"


def _strict_stop(history, after):
    """Return a second line on the rule 'exceeds' with patience 1, if the run went on beyond that epoch."""
    epoch = strict_stop_epoch(history, after)
    if epoch is None or epoch == len(history):
        return ""
    until, overall = (max(row["val_accuracy"] for row in rows) for rows in (history[:epoch], history))
    best = f"highest validation accuracy until then {until:.4f}, of the whole run {overall:.4f}"
    return f"\n--stop-rule exceeds with patience 1 would have stopped after epoch {epoch}: {best}"
