"""The result of a run: validation logits, the model file's metadata, and the summary."""

from detector.console import plural
from detector.data import tree as data_tree
from detector.training.config import TrainingConfig, shareable
from detector.training.inputs import RunData


def validation_logits(model, scores) -> tuple:
    """Return the result of `score` of the batches.PooledScores of validation, for a model with its current weights."""
    from detector.model.backend import linear_output
    from detector.model.scores import fake_logits

    with linear_output(model):
        return scores.score(lambda batch: fake_logits(model.predict_on_batch(batch), scores.output))


def make_metadata(config: TrainingConfig, data: RunData, sources: list, run: dict, temperature: float, thresholds: dict) -> dict:
    """Return the metadata for the .h5; `sources` are those of inputs.read_origins, `run` is a dict on this run, for 'made'."""
    from detector.images import pixels
    from detector.model import backend
    from detector.model import file as model_file

    sizes = pixels.training_range(data.sizes)
    return {
        "format": model_file.FORMAT,
        "architecture": config.architecture,
        "class_names": list(data_tree.CLASSES),
        "output": config.network.output,
        **config.preprocessing_metadata,
        "temperature": temperature,
        "thresholds": thresholds,
        "training_range": {**sizes, "shorter_side": list(config.training_range or sizes["shorter_side"])},
        "trained_on": trained_on(config, data.counts["train"], sizes, sources),
        "made": {
            "arguments": shareable(config), "counts": data.counts, "started_from": sources, "data_fingerprint": data.fingerprint,
            **run, "versions": backend.versions(),
        },
    }  # fmt: skip


def trained_on(config: TrainingConfig, counts: dict, sizes: dict, sources: list) -> str:
    """Return a sentence on what a detector, and those that it started from (`sources`), were trained on.

    Args:
        counts: {'Fake': n, 'Real': n} of the train images.
        sizes: as pixels.training_range returns them.
    """
    low, high = sizes["shorter_side"]
    span = f"{low}" if low == high else f"{low} to {high}"
    before = list(dict.fromkeys(source["trained_on"] for source in sources))
    if before and not config.epochs and not config.description:
        return "; ".join(before)
    origin = config.description or f"the images of {config.data.resolve().name}"
    now = f"{origin}: {counts['Fake']:,} Fake and {counts['Real']:,} Real images with a shorter side of {span} pixels"
    return "; before that: ".join([now, *(text for text in before if text != now)]) if config.epochs else now


def print_result(config: TrainingConfig, is_fake, logits, metadata: dict, unreadable: dict) -> None:
    """Print the metrics on validation, the thresholds, and which images could not be read."""
    from detector.evaluation import metrics
    from detector.model import scores

    found = metrics.classification_metrics(is_fake, scores.p_fake_of(logits, metadata["temperature"]), metadata["thresholds"])
    for path, reason in list(unreadable.items())[:10]:
        print(f"not read: {reason or path}")
    if unreadable:
        print(f"{plural(len(unreadable), 'image')} could not be read and were left out")
    fake, real = (metadata["thresholds"][name] for name in ("fake", "real"))
    print(f"validation: accuracy {found['accuracy']:.4f}, AUC {found['auc']:.4f}, ECE {found['ece']:.4f}; ", end="")
    print(f"temperature {metadata['temperature']:.3f}; thresholds: Fake >= {fake:.4f}, Real <= {real:.4f}, otherwise uncertain")
    print(f"{config.output} written ({config.output.stat().st_size / 2**20:.1f} MiB), history in {config.log_dir}")
