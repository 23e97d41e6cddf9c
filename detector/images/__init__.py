"""Images: decoding, preprocessing, corruptions and augmentation."""
