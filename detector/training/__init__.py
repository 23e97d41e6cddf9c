"""Training: data set, batches, augmentation, callbacks and distribution."""
