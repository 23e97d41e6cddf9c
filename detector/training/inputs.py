"""What a run reads: the images of train and validation, and the detectors that it starts from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.console import InputError, plural
from detector.data import tree as data_tree
from detector.files import digest_of
from detector.training.augmentation import make_augmentation
from detector.training.config import TrainingConfig
from detector.training.dataset import DecodedImages, Split, index_split
from detector.training.distributed import ProcessGroup


@dataclass(frozen=True)
class RunData:
    """The data of a run: the splits train and validation, and the SHA-256 over names and contents of all images."""

    splits: dict[str, Split]
    fingerprint: str

    @property
    def sizes(self):
        """(n, 2) int32, width and height of the train images that can be opened."""
        sizes = self.splits["train"].sizes
        return sizes[sizes.any(axis=1)]

    @property
    def counts(self) -> dict:
        """{split: {'Fake': n, 'Real': n}}."""
        return {name: {"Fake": split.labels.count(0), "Real": split.labels.count(1)} for name, split in self.splits.items()}

    def table(self) -> str:
        """Return the counts as a table for people."""
        counts = {(split, name): n for split, by_class in self.counts.items() for name, n in by_class.items()}
        return data_tree.counts_table(counts)


def read_data(data: Path) -> RunData:
    """Index train and validation of a data tree: RunData."""
    tree = data_tree.read_tree(data, ("train", "validation"))
    splits = {split: index_split(data, split, paths, labels) for split, (paths, labels) in tree.items()}
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update("\n".join(split.paths).encode(errors="surrogateescape"))
        digest.update(split.digests.tobytes())
    return RunData(splits, digest.hexdigest())


def make_datasets(config: TrainingConfig, data: RunData, group: ProcessGroup, devices: int = 1):
    """Return (batches.ImageBatches of train, another or batches.PooledScores of validation).

    Args:
        config: with its image size.
        group: each process gets its rows of each batch.
        devices: number of devices of all processes.
    """
    from detector.training.batches import ImageBatches, PooledScores

    # Views are cut out of whole images, others in each epoch; of validation they are scored as the app does it, and not kept.
    whole = config.preprocessing == "views"
    size, cached = None if whole else config.image_size, ["train"] if whole else list(data.splits)
    images = {name: DecodedImages(split, size, keep=name in cached and not config.no_cache) for name, split in data.splits.items()}
    for decoded in images.values():
        _check_readable(decoded)
    print(_cache_summary([images[name] for name in cached], config))
    common = {"output": config.network.output, "batch_size": config.batch_size, "seed": config.seed}
    common |= {"balance_groups": config.balance_groups, "process": group.rank, "processes": group.world_size, "devices": devices}
    train = ImageBatches(images["train"], **common, shuffle=True, augmentation=make_augmentation(config))
    train[0]  # an unreadable data set fails here and not within `fit`
    if whole:
        return train, PooledScores(data.splits["validation"], config)
    validation = ImageBatches(images["validation"], **common)
    validation[0]
    return train, validation


def _check_readable(images):
    """Raise InputError if no image of a class can be read. (Without a cache that shows only while they are read.)"""
    split = images.split
    readable = {label for path, label, size in zip(split.paths, split.labels, split.sizes, strict=True)
                if size.any() and path not in images.unreadable}  # fmt: skip
    for label, name in enumerate(data_tree.CLASSES):
        if label not in readable:
            folder = split.data / split.paths[0].split("/")[0] / name
            raise InputError(f"{folder}: expected images that can be read, found none; run data_audit.py")


def _cache_summary(images, config):
    if all(decoded.file for decoded in images):
        size = sum(decoded.file.stat().st_size for decoded in images)
        return f"decoded images: {size / 2**20:,.0f} MiB in {images[0].file.parent}, which may be deleted"
    reason = "--no-cache" if config.no_cache else "not enough space, or the folder is read-only"
    return f"decoded images: cache disabled ({reason}); each image is decoded in every epoch"


def read_origins(config: TrainingConfig, data: RunData) -> tuple:
    """Return what the starting weights were trained on, and warn if that includes validation images.

    Returns:
        (train digests, sources): (n, DIGEST_BYTES) uint8 of all images that the weights will have been trained on, or None if
        a detector to start from does not contain its own; [{'name', 'sha256', 'trained_on'}] of those detectors.
    """
    from detector.model import file as model_file
    from detector.model.weights import is_detector

    digests, validation = ([data.splits[name].digests[:, : model_file.DIGEST_BYTES]] for name in ("train", "validation"))
    sources = []
    for path in filter(is_detector, config.weight_files):
        metadata, known = model_file.read_metadata(path), model_file.read_train_digests(path)
        sources.append({"name": Path(path).name, "sha256": digest_of(path), "trained_on": metadata["trained_on"]})
        digests = None if digests is None or known is None else [*digests, known]
        known = set() if known is None else set(map(bytes, known)) - {bytes(model_file.DIGEST_BYTES)}  # zeros: could not be read
        if repeated := sum(bytes(digest) in known for digest in validation[0]):
            effect = "temperature, thresholds and the best epoch, which are fitted on them, will look better than they are"
            print(f"warning: {path} was trained on {plural(repeated, 'image')} of these validation images: {effect}")
    return digests and np.unique(np.concatenate(digests), axis=0), sources
