"""Augmentation of training images, on the fly."""
from dataclasses import dataclass

import numpy as np

from detector.images import corruptions, pixels, transforms


# --- augmentation --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Crop:
    """A square cut out of a whole image at random, as `pixels.patches` cuts them on a grid, after a random resize.

    The square is cut first and resized then, which gives the same pixels but for its edge and does not resize what is thrown away.

    Attributes:
        size: side of the network's input, in pixels.
        low, high: the factor is drawn from this range, evenly on the scale of its logarithm; 1 and 1 for the image's own pixels.
    """

    size: int
    low: float = 1.0
    high: float = 1.0

    def __call__(self, image, rng):
        """Return a (size, size, 3) uint8 square of a (h, w, 3) uint8 image."""
        factor, down, right = rng.random(3).tolist()
        side = self.size / (self.low * (self.high / self.low) ** factor)
        height, width = image.shape[:2]
        side = max(1, min(round(side), height, width))
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        return pixels.resize(image[top : top + side, left : left + side], self.size)


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to a train image, the same for both classes: cut out, moved, then damaged.

    Attributes:
        flip: mirror half of the images left to right.
        moves: arguments of detector.images.transforms.random_affine besides `flip`; empty for none.
        damages: arguments of detector.images.corruptions.random_damage; empty for none.
        crop: a Crop, before them, of a whole image; None where it is fitted already.
    """

    flip: bool = False
    moves: dict | None = None
    damages: dict | None = None
    crop: Crop | None = None

    def __call__(self, image, rng):
        """Return a (s, s, 3) uint8 image; the same state of the numpy.random.Generator gives the same one."""
        if self.crop:
            image = self.crop(image, rng)
        if self.moves:
            image = transforms.random_affine(image, rng, flip=self.flip, **self.moves)
        elif self.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return corruptions.random_damage(image, rng, **self.damages) if self.damages else image
