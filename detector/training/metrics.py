"""Metrics for `fit`. Imports Keras at once: import this module inside functions."""

import keras

from detector.training.batches import IGNORED


def fake_metrics(output, some_ignored=False):
    """Return the metrics for `compile`, all with Fake as the positive class: those of batches, and of weighted batches.

    Args:
        output: 'softmax' or 'sigmoid_real'.
        some_ignored: whether rows with the target IGNORED occur, which no metric counts.
    """

    def p_fake(values):
        return values[:, :1] if output == "softmax" else 1 - values

    def of_fake(kind, name):
        class OfFake(kind):
            def update_state(self, y_true, y_pred, sample_weight=None):
                if some_ignored and sample_weight is None:
                    sample_weight = keras.ops.cast(y_true[:, 0] != IGNORED, "float32")
                return super().update_state(p_fake(y_true), p_fake(y_pred), sample_weight)

        OfFake.__name__ = f"{kind.__name__}OfFake"
        return OfFake(name=name)

    metrics = keras.metrics
    kinds = {"accuracy": metrics.BinaryAccuracy, "precision": metrics.Precision, "recall": metrics.Recall, "auc": metrics.AUC}
    cross_entropy = of_fake(metrics.BinaryCrossentropy, "cross_entropy")  # the loss without penalties
    return {"metrics": [of_fake(kind, name) for name, kind in kinds.items()], "weighted_metrics": [cross_entropy]}
