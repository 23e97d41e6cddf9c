"""Augmentation of training images, on the fly."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detector.images import corruptions, pixels, transforms
from detector.training.config import TrainingConfig


@dataclass(frozen=True)
class View:
    """A view of a whole image at random, `size` pixels wide and high, of the kinds that `pixels.views` cuts.

    One kind is drawn: 'whole', in the middle; 'native', at a random place; or 'between', at a random scale between both
    (uniform on the scale of its logarithm) and a random place.
    """

    size: int

    def __call__(self, image, rng):
        """Return a (size, size, 3) uint8 square of a (h, w, 3) uint8 image."""
        height, width = image.shape[:2]
        kind = list(pixels.VIEW_POSITIONS)[rng.integers(len(pixels.VIEW_POSITIONS))]
        if kind == "whole":
            return pixels.views(image, self.size, ["whole"])[0]
        smallest = pixels.VIEW_MARGIN * self.size / min(height, width)
        largest = max(1.0, smallest)
        scale = largest if kind == "native" else smallest * (largest / smallest) ** rng.random()
        side = self.size / scale
        left, top = rng.random() * (width - side), rng.random() * (height - side)
        if scale == 1:
            left, top = round(left), round(top)
        return pixels.cut(Image.fromarray(image), (left, top, left + side, top + side), self.size)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a train image, the same for both classes: photo degradation, view, geometry, degradation.

    Attributes:
        flip: mirror half of the images left to right.
        geometry: arguments of detector.images.transforms.random_affines except `flip`, or None.
        degradation: arguments of detector.images.corruptions.random_degradation; None for none.
        view: a View of a whole image; None if the image has the network's size already.
        photo: probability of detector.images.corruptions.random_sharing, applied to the whole image.
    """

    flip: bool = False
    geometry: dict | None = None
    degradation: dict | None = None
    view: View | None = None
    photo: float = 0.0

    def __call__(self, image, rng):
        """Return a (s, s, 3) uint8 image; the same state of the numpy.random.Generator gives the same one."""
        if self.photo and rng.random() < self.photo:
            image = corruptions.random_sharing(image, rng)
        if self.view:
            image = self.view(image, rng)
        if self.geometry:
            image = next(transforms.random_affines(image, rng, 1, flip=self.flip, **self.geometry))
        elif self.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return corruptions.random_degradation(image, rng, **self.degradation) if self.degradation else image


def make_augmentation(config: TrainingConfig) -> Augmentation | None:
    """Return the Augmentation that a TrainingConfig asks for, or None."""
    geometry = {"rotation": config.rotation, "shift": config.shift, "shear": config.shear, "zoom": config.zoom}
    degradation = {
        "probability": config.degradation, "max_blur": config.max_blur, "min_scale": config.min_scale,
        "max_noise": config.max_noise, "min_quality": config.min_jpeg,
    }  # fmt: skip
    augmentation = Augmentation(
        config.flip,
        geometry if any(geometry.values()) else None,
        degradation if config.degradation else None,
        View(config.image_size) if config.preprocessing == "views" else None,
        config.photo_degradation,
    )
    return augmentation if augmentation != Augmentation() else None
