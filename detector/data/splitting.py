"""Which image goes to which split: pure functions of names, classes, contents and groups."""

from collections import Counter, defaultdict
from fractions import Fraction
from hashlib import sha256

from detector.console import InputError, plural
from detector.data.tree import CLASSES, SPLITS

SIZES = dict(zip(SPLITS, map(Fraction, ("0.70", "0.15", "0.15")), strict=True))
SIZES_OF_TRAIN = dict(zip(SPLITS, map(Fraction, ("0.8", "0.2", "0.2")), strict=True))  # if validation or test was published
ATTEMPTS = 64  # orders in which groups are placed; the best plan is taken


def apportion(total, weights):
    """Divide `total` in proportion to integer or Fraction weights into whole numbers that sum to it (largest remainder)."""
    whole = sum(weights)
    quotients = [Fraction(total) * weight / whole for weight in weights] if whole else [Fraction(0)] * len(weights)
    counts = [int(quotient) for quotient in quotients]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - quotients[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def resolve_sizes(sizes, published, images):
    """Return ({split: images to place there}, exact) for the splits that were not published.

    `exact` is False if the sizes are fractions, which are met as well as the data allow.

    Args:
        sizes: three Fractions for train, validation and test: fractions of 1, or counts; None for the defaults.
        published: {split: images} of the validation and test that are kept as they are.
        images: number of images to divide.

    Raises InputError if the sizes contradict each other, the published splits, or the number of images.
    """
    splits = [split for split in SPLITS if split not in published]
    if sizes is None:
        sizes = {"train": Fraction(1)} if len(splits) == 1 else SIZES_OF_TRAIN if published else SIZES
    else:
        sizes = dict(zip(SPLITS, sizes, strict=True))
        for split, number in published.items():
            if sizes[split] not in (0, number):
                raise InputError(f"--sizes: the published {split} stays untouched, found {float(sizes[split]):.9g}; give 0 for it")
    wanted = [sizes[split] for split in splits]
    if sum(wanted) == 1:
        return dict(zip(splits, apportion(images, wanted), strict=True)), False
    if any(size.denominator != 1 for size in wanted) or not any(wanted):
        given = ", ".join(f"{split} {float(size):.9g}" for split, size in zip(splits, wanted, strict=True))
        raise InputError(f"--sizes: expected fractions that sum to 1, or counts, found {given}; change them")
    if sum(wanted) > images:
        raise InputError(f"--sizes: {plural(int(sum(wanted)), 'image')} asked for, {images:,} are there to divide; ask for fewer")
    return {split: int(size) for split, size in zip(splits, wanted, strict=True)}, True


def quotas(counts, per_class):
    """Return {class: {split: images}}: each split has its count, and the classes are divided in equal proportion.

    Images beyond the sum of the counts are treated as one more split. Fake is apportioned; Real is the rest of each count.
    """
    unplaced = sum(per_class.values()) - sum(counts.values())
    rows = [*counts.values(), unplaced]
    fake = apportion(per_class["Fake"], rows)
    return {
        "Fake": dict(zip(counts, fake, strict=False)),
        "Real": {split: row - part for split, row, part in zip(counts, rows, fake, strict=False)},
    }


def plan_split(items, counts, seed, exact=True):
    """Divide images among splits: seeded, in equal proportion per class, no content and no group in two splits.

    Groups are placed first, those that share a content together: of several seeded orders, roughly the largest first, the one
    that comes closest to the counts is taken. Images without a group fill the rest in the order of a hash of seed and content,
    so that the split depends neither on the machine nor on the order of the list. What is larger than the room left is skipped.

    Args:
        items: list of (name, class, content key, group or None); the names are distinct.
        counts: {split: number of images}, with groups to be met as well as these allow.
        seed: any integer.
        exact: if False, the counts may be missed: all images without a group that are left go to the first split.

    Returns ({split: [names]}, sorted; [[groups that share a content]]); raises InputError if a count cannot be met, or leaves a
    class of a split empty.
    """
    per_class = Counter(label for _, label, *_ in items)
    wanted = quotas(counts, per_class)
    room = {(split, label): wanted[label][split] for split in counts for label in CLASSES}
    if sum(counts.values()) < len(items):  # None stands for what no split asks for
        room |= {(None, label): per_class[label] - sum(wanted[label].values()) for label in CLASSES}
    units, singles = _connected(items)
    attempts = range(ATTEMPTS if units else 1)
    plans = [_place_units(units, dict(room), f"{seed}/{attempt}", attempt % 2) for attempt in attempts]
    placed, left = min(plans, key=lambda plan: _distance(plan[1], room, per_class, singles))
    first, *others = counts
    for label in CLASSES:
        ranked = [singles[label][key] for key in sorted(singles[label], key=lambda key: _rank(seed, key))]
        for split in (*others, first):
            rest = split == first and not exact
            number = sum(map(len, ranked)) if rest else max(left[split, label], 0)
            taken, ranked = _take(ranked, number)
            placed[split] += [(name, label) for name in taken]
            if exact and not units and len(taken) != number:
                cure = "identical images stay together; ask for another number"
                raise InputError(f"{split}: expected {number:,} images of class {label}, found {len(taken):,}: {cure}")
            if counts[split] and all(of != label for _, of in placed[split]):
                cure = "give more images of that class or smaller groups, or other --sizes"
                raise InputError(f"{split}: no image of class {label} would be in it; {cure}")
    joined = [unit["groups"] for unit in units if len(unit["groups"]) > 1]
    return {split: sorted(name for name, _ in placed[split]) for split in counts}, joined


def _rank(seed, key):
    return sha256(f"{seed}/{key}".encode(errors="surrogateescape")).digest()


def _take(groups, number):
    """Return ([names], [groups that are left]): groups in their order, or the largest first if that meets the number."""
    for order in (groups, sorted(groups, key=len, reverse=True)):
        taken, left = [], []
        for group in order:
            if len(taken) + len(group) <= number:
                taken += group
            else:
                left.append(group)
        if len(taken) == number:
            break
    return taken, left


def _connected(items):
    """Return (units of groups that share contents, {class: {content key: [names]}} of the images without a group)."""
    parent = {}

    def root(node):
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for _, _, key, group in items:
        if group is not None:
            parent[root(("content", key))] = root(("group", group))
    members, singles = defaultdict(list), {label: defaultdict(list) for label in CLASSES}
    for name, label, key, group in items:
        node = root(("content", key))
        if node[0] == "group":
            members[node].append((name, label, group))
        else:
            singles[label][key].append(name)
    units = [
        {
            "groups": sorted({group for *_, group in some if group is not None}),
            "images": [(name, label) for name, label, _ in some],
            "sizes": Counter(label for _, label, _ in some),
        }
        for some in members.values()
    ]
    return sorted(units, key=lambda unit: unit["groups"]), singles


def _place_units(units, room, seed, cover):
    """Place each unit where it brings the counts closest to what is wanted: ({split: [(name, class)]}, room that is left).

    With `cover`, a small unit of each class is placed in each split first, so that none stays empty.
    """
    placed = {split: [] for split, _ in room}

    def put(unit, split):
        placed[split] += unit["images"]
        for label, size in unit["sizes"].items():
            room[split, label] -= size

    weights = [len(unit["images"]) * (0.5 + _rank(seed, unit["groups"][0])[0] / 256) for unit in units]
    order = [units[i] for i in sorted(range(len(units)), key=lambda i: -weights[i])]  # from large to small, but not strictly
    for split, label in sorted(room, key=room.get) if cover else ():
        small = next((unit for unit in reversed(order) if unit["sizes"][label]), None)
        if small and split is not None and room[split, label] > 0 and all(of != label for _, of in placed[split]):
            order.remove(small)
            put(small, split)
    for unit in order:
        sizes = unit["sizes"]
        put(unit, min(placed, key=lambda split: sum(size * (size - 2 * room[split, label]) for label, size in sizes.items())))
    return placed, room


def _distance(left, room, per_class, singles):
    """Return how far a plan is from the counts: (classes missing in a split, squared differences).

    Room that is left does not count in a class that has images without a group to fill it.
    """
    filled = {label: bool(singles[label]) for label in CLASSES}
    missing = sum(
        number > 0 and left[split, label] == number and not filled[label]
        for (split, label), number in room.items()
        if split is not None
    )
    off = [number / max(per_class[label], 1) for (_, label), number in left.items() if number < 0 or not filled[label]]
    return missing, sum(number**2 for number in off)
