"""Near-duplicates: a perceptual hash, the pairs of close hashes, and the correlation that confirms a pair.

The hash is the sign of the 8 x 8 lowest frequencies of a 32 x 32 grey thumbnail (a DCT hash): scaling, saving again as
JPEG, and brightening change few of its 64 bits. Close hashes alone would also pair images that merely share a
composition, so every pair is confirmed on colour thumbnails.
"""

import numpy as np
from PIL import Image

GREY_SIDE = 32  # of the thumbnail that is hashed
LOW = 8  # frequencies kept in each direction
COLOUR_SIDE = 16  # of the thumbnail that confirms a pair
BANDS = 4  # of 16 bits
MAX_BITS = 2 * BANDS - 1  # two hashes that differ in at most 7 bits differ in at most one bit of some band
MAX_PAIRS = 200_000  # near-identical frames have a pair for every two of them


def grey_thumbnail(image):
    """Return an RGB image, (h, w, 3) uint8, as (32, 32) uint8 grey."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX, reducing_gap=2.0))


def colour_thumbnail(image):
    """Return an RGB image, (h, w, 3) uint8, as (16, 16, 3) uint8."""
    return np.asarray(Image.fromarray(image).resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX, reducing_gap=2.0))


def perceptual_hashes(thumbnails):
    """Hash grey thumbnails, (n, 32, 32) uint8, to (n,) uint64.

    The bits of neighbouring frequencies go to different bands of 16 bits, so that every band distinguishes images.
    """
    angles = np.pi / GREY_SIDE * np.outer(np.arange(LOW), np.arange(GREY_SIDE) + 0.5)
    basis = np.cos(angles).astype(np.float32)  # rows of a DCT-II; its scale does not change the signs
    low = basis @ (np.asarray(thumbnails, np.float32) - 128) @ basis.T
    bits = (low.reshape(-1, LOW * LOW) > 0).astype(np.uint64)
    bits[:, 0] = 0  # the mean brightness does not distinguish images
    dealt = np.arange(LOW * LOW).reshape(-1, BANDS).T.ravel()
    return (bits[:, dealt] << np.arange(LOW * LOW, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def close_pairs(hashes, most=MAX_PAIRS):
    """Find all pairs of hashes that differ in at most MAX_BITS bits, without comparing every pair.

    Hashes that differ in at most 7 bits differ in at most one bit of one of the four bands. So each band is sorted, and every hash
    looks up its own value and the 16 values one bit away.

    Args:
        hashes: (n,) uint64.
        most: stop at this many pairs.

    Returns:
        (m, 2) int64 pairs of indices, the smaller first, sorted, without repeats; the first `most` that were found.
    """
    hashes, found = np.asarray(hashes, np.uint64), np.empty((0, 2), np.int64)
    for band in range(BANDS):
        keys = ((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(0x10001))
        in_band, number = [found], 0
        for flip in [0] + [1 << bit for bit in range(16)]:
            for first, second in _joined(keys, order, starts, flip):
                near = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_BITS
                in_band.append(np.stack([first[near], second[near]], axis=1))
                number += np.count_nonzero(near)
                if number >= most:
                    return np.unique(np.concatenate(in_band), axis=0)[:most]
        found = np.unique(np.concatenate(in_band), axis=0)
    return found[:most]


def _joined(keys, order, starts, flip, block=1 << 21):
    """Yield arrays (first, second), first < second, of indices with keys[first] ^ flip == keys[second]; flat memory."""
    sizes = np.diff(starts)[keys ^ flip]
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(keys):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + block, side="right")))
        length = sizes[begin:end]
        first = np.repeat(np.arange(begin, end), length)
        offsets = np.arange(len(first)) - np.repeat(np.cumsum(length) - length, length)
        second = order[np.repeat(starts[keys[begin:end] ^ flip], length) + offsets]
        ordered = first < second
        yield first[ordered], second[ordered]
        begin = end


def likeness(thumbnails, first, second, block=4096):
    """Return the similarity of pairs of colour thumbnails: (m,) float32 in [-1, 1].

    It is the correlation of the pixels about each channel's mean: after a change of brightness or contrast it is still near 1;
    another colour of the same shape lowers it, and so does the noise of near-blank images.

    Args:
        thumbnails: (n, 16, 16, 3) uint8.
        first, second: (m,) int, indices into them.
    """
    found = np.empty(len(first), np.float32)
    for i in range(0, len(first), block):
        a, b = (thumbnails[which[i : i + block]].reshape(-1, COLOUR_SIDE**2, 3).astype(np.float32) for which in (first, second))
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        size = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
        found[i : i + block] = (a * b).sum(axis=(1, 2)) / np.maximum(size, 1e-6)
    return found
