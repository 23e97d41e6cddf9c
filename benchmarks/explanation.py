"""Does the heat map explain? What masking its hottest fifth does to the score, against a random fifth and that with most edges.

    python benchmarks/explanation.py models/compact.h5 data
    python benchmarks/explanation.py models/compact.h5 data --speed      seconds for an image alone; no TensorFlow

reads   a detector and a data tree; writes nothing that stays

The hottest fifth is that of the verdict's direction: the pixels that speak most for Fake if the logit is above 0, otherwise those
that speak most for Real. Masked pixels get a fill that the map was not made with: the image's mean colour, the image rotated by
180°, or its own pixels shuffled. The score moves by as much as it goes towards the other verdict, in logits and in calibrated
P(Fake). A random fifth is drawn in two ways, --draws times each: single pixels; and the hottest fifth itself, mirrored and shifted
around the image, which has its shape to the pixel. The fifth with the most edges is that of the steepest brightness.

Intervals are 95 % bootstrap intervals over the images, drawn from each class. Target: the hottest fifth moves the score more than
each of the others, on average over the fills and the images, the whole interval of the difference above 0, in logits and in
P(Fake). Last, the network's weights are shuffled within each array, and the maps compared with those of the real ones.
"""

import statistics
import time

import numpy as np
from measuring import make_parser

from detector.console import plural, progress, stage, table
from detector.evaluation import dataset, intervals
from detector.images import pixels
from detector.inference import attribution
from detector.model import export, scores

SHARE = 0.2
FILLS = ("mean colour", "half a turn", "shuffled pixels")
RIVALS = ("random pixels", "its shape elsewhere", "most edges")


def highest(values):
    """Return the fraction SHARE of pixels with the highest values: (h, w) bool."""
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values.ravel(), kind="stable")[: round(SHARE * values.size)]] = True
    return mask.reshape(values.shape)


def filled(image, masks, fill, rng):
    """Return an image with each of (k, h, w) masks laid on it, filled: (k, h, w, 3) uint8."""
    if fill == "mean colour":
        other = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
    elif fill == "half a turn":
        other = image[::-1, ::-1]
    else:
        other = rng.permutation(image.reshape(-1, 3)).reshape(image.shape)
    return np.where(masks[..., None], other, image)


def edges(image):
    """Return the brightness gradient, (h, w)."""
    return np.hypot(*np.gradient(image.astype(np.float64).mean(axis=2)))


def elsewhere(mask, rng):
    """Return a mask mirrored and shifted around at random."""
    mask = mask[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return np.roll(mask, rng.integers(mask.shape), axis=(0, 1))


def all_masks(image, favour, draws, rng):
    """Return (1 + draws * 2 + 1, h, w) bool: the hottest fifth, then the rivals in the order of RIVALS."""
    hottest = highest(favour)
    drawn = [highest(rng.random(favour.shape)) for _ in range(draws)] + [elsewhere(hottest, rng) for _ in range(draws)]
    return np.stack([hottest, *drawn, highest(edges(image))])


def moved(detector, images, maps, draws):
    """Measure how far masking moves the score towards the other verdict.

    Returns:
        {"logits", "P(Fake)"} -> (fills, images, 1 + rivals) float64.
    """
    margins, temperature = detector.logits(images), detector.metadata["temperature"]
    found = {"logits": [], "P(Fake)": []}
    for fill in FILLS:
        rng = np.random.default_rng(0)
        rows = {name: [] for name in found}
        for image, heat, margin in zip(images, maps, margins, strict=True):
            sign = 1 if margin > 0 else -1
            masks = all_masks(image, sign * heat, draws, rng)
            after = detector.logits(filled(image, masks, fill, rng))
            p, p_after = (scores.p_fake_of(value, temperature) for value in (margin, after))
            rows["logits"].append(by_rival(sign * (margin - after), draws))
            rows["P(Fake)"].append(by_rival(sign * (p - p_after), draws))
        for name in found:
            found[name].append(rows[name])
    return {name: np.array(rows) for name, rows in found.items()}


def by_rival(values, draws):
    """Average the draws of `all_masks`: (1 + rivals,)."""
    return np.concatenate([values[:1], values[1:-1].reshape(2, draws).mean(axis=1), values[-1:]])


def with_interval(values, is_fake):
    """Return the mean of (n,) values and its 95 % interval: (mean, low, high)."""
    drawn = np.concatenate([weights @ values / len(values) for weights in intervals.resampled(is_fake, 2000)])
    return values.mean(), *np.quantile(drawn, [0.025, 0.975])


def shuffled_weights(path):
    """Return a detector whose weights are shuffled within each array; on Keras."""
    from detector.model.runtime import KerasDetector

    detector, rng = KerasDetector(path), np.random.default_rng(0)
    model = detector._model
    model.set_weights([rng.permutation(weights.ravel()).reshape(weights.shape) for weights in model.get_weights()])
    return detector


def alike(maps, others):
    """Return the correlation of each map with its other, (n,); 0 where one is flat."""
    pairs = [(a - a.mean(), b - b.mean()) for a, b in zip(maps, others, strict=True)]
    return np.array([(a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), 1e-12) for a, b in pairs])


def speed(detector, image, runs):
    """Print the seconds of a map, of an image alone."""
    attribution.explain(detector, image)
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        attribution.explain(detector, image)
        times.append(time.perf_counter() - began)
    spent = [f"{seconds:.2f}" for seconds in times]
    size = detector.metadata["image_size"]
    print(f"{detector.metadata['architecture']}, {size} px: {statistics.median(times):.2f} s a map ({', '.join(spent)})")


def report(found, is_fake):
    """Print how far the score moves, and by how much more for the hottest fifth; return whether all targets are met."""
    good = True
    for unit, values in found.items():
        digits = 2 if unit == "logits" else 3
        rows = [
            [fill, *(f"{value:.{digits}f}" for value in part.mean(axis=0))]
            for fill, part in zip((*FILLS, "all fills"), (*values, values.mean(axis=0)), strict=True)
        ]
        print(table(rows, [f"moved, {unit}", "hottest", *RIVALS]))
        averaged = values.mean(axis=0)
        for i, rival in enumerate(RIVALS, 1):
            mean, low, high = with_interval(averaged[:, 0] - averaged[:, i], is_fake)
            good &= bool(low > 0)
            said = "" if low > 0 else ", missed"
            print(f"  hottest less {rival}: {mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){said}")
    return good


@stage
def main(argv=None):
    """Run the benchmark; exit code 1 where a target is missed."""
    args = make_parser(
        __doc__, "model", "data", split=("validation", "split to use"), images=(200, "half of each class"),
        draws=(5, "of each random fifth"), seed=(0, "draws the images"), speed=(False, "measure the seconds of a map instead"),
    ).parse_args(argv)  # fmt: skip
    detector = export.open_detector(args.model)
    images, is_fake = read_some(args, detector.metadata["image_size"])
    if args.speed:
        return speed(detector, images[0], 5)
    maps = [attribution.explain(detector, image) for image in progress(images)]
    good = report(moved(detector, images, maps, args.draws), is_fake)
    few = slice(None, None, max(1, len(images) // 20))
    other = shuffled_weights(args.model)
    same = alike(maps[few], [attribution.explain(other, image) for image in images[few]])
    print(f"correlation with the maps of shuffled weights: {same.mean():.2f} on average, {np.abs(same).max():.2f} at most")
    print(f"{plural(len(images), 'image')} of {args.split}")
    if not good or np.abs(same.mean()) > 0.2:
        raise SystemExit(1)


def read_some(args, size):
    """Return ((n, s, s, 3) uint8, (n,) bool is Fake): as many of each class, drawn at random."""
    items = dataset.list_items(args.data, [args.split])[0][args.split]
    rng, drawn = np.random.default_rng(args.seed), []
    for name in ("Fake", "Real"):
        of_class = [item for item in items if item.is_fake == (name == "Fake")]
        drawn += [of_class[i] for i in rng.permutation(len(of_class))[: args.images // 2]]
    images = np.stack([pixels.read_resized(args.data / item.path, size) for item in drawn])
    return images, np.array([item.is_fake for item in drawn])


if __name__ == "__main__":
    main()
