"""Metrics for `fit`. Imports Keras at once: import this module inside functions."""

import keras

from detector.training.batches import IGNORED


def fake_metrics(output, some_ignored=False):
    """Return the metrics for `compile`, all with Fake as the positive class.

    Args:
        output: 'softmax' or 'sigmoid_real'.
        some_ignored: whether rows with the target IGNORED occur, which no metric counts.

    Returns:
        {'metrics': accuracy, precision, recall, auc; 'weighted_metrics': the cross-entropy, which is the loss without penalties}
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

    kinds = keras.metrics
    plain = [
        of_fake(kinds.BinaryAccuracy, "accuracy"),
        of_fake(kinds.Precision, "precision"),
        of_fake(kinds.Recall, "recall"),
        of_fake(kinds.AUC, "auc"),
    ]
    return {"metrics": plain, "weighted_metrics": [of_fake(kinds.BinaryCrossentropy, "cross_entropy")]}
