"""Building the network of a run and compiling it for a phase."""

import dataclasses

from detector.console import InputError
from detector.training.config import TrainingConfig, starts_whole
from detector.training.schedules import Phase, make_schedule


def build_network(config: TrainingConfig):
    """Build the network that the config names, with its starting weights, in the precision it asks for."""
    from detector.model import backend
    from detector.model.weights import load_files

    keras = backend.import_keras()
    keras.config.set_dtype_policy(f"mixed_{config.mixed_precision}" if config.mixed_precision else "float32")
    whole = starts_whole(config)
    weights = "none" if whole else list(config.weight_files) or config.weights
    more = {name: getattr(config, name) for name in config.network.options}
    try:
        model = config.network.build(config.image_size, weights, config.l2, **more)
    except ValueError as error:
        expected = f"expected a size that {config.architecture} can be built for"
        raise InputError(f"--image-size {config.image_size}: {expected} ({' '.join(str(error).split())[:120]})") from None
    if whole:
        load_files(model, list(config.weight_files))
        for layer in model.layers:
            if layer.name == "standardisation":  # with the statistics of a batch, the head would get other inputs
                layer.trainable = False
    return model


def rebuild(config: TrainingConfig, **changes):
    """Build the network of a run again, for weights that exist already: the files of --weights are not read."""
    return build_network(dataclasses.replace(config, weights="none", **changes))


def in_full_precision(model, config: TrainingConfig):
    """Return a trained network with all layers in float32, in which scores are computed."""
    if not config.mixed_precision:
        return model
    plain = rebuild(config, mixed_precision=None)
    plain.set_weights(model.get_weights())
    return plain


def compile_network(model, phase: Phase, config: TrainingConfig, steps_per_epoch: int, ignores_rows: bool = False) -> None:
    """Compile with Adam (with decoupled weight decay AdamW, arXiv 1711.05101) and binary cross-entropy.

    For a softmax(2) that is 'categorical_crossentropy' on one-hot targets: Keras 3's 'binary_crossentropy' would treat the two
    logits as independent sigmoids. `ignores_rows` says whether validation batches contain rows with the target batches.IGNORED.
    """
    import keras

    from detector.model.weights import backbone_of
    from detector.training.metrics import fake_metrics

    if backbone := backbone_of(model):
        backbone.trainable = not phase.head_only  # the backbone alone: the normalisation before it stays fixed
        for layer in backbone.layers:
            if config.freeze_batch_norm and isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # in Keras it then also normalises by its averages
    adam = keras.optimizers.Adam(make_schedule(phase, config, steps_per_epoch), weight_decay=config.weight_decay or None)
    if config.weight_decay:
        adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    output = config.network.output
    loss = keras.losses.CategoricalCrossentropy if output == "softmax" else keras.losses.BinaryCrossentropy
    model.compile(adam, loss=loss(label_smoothing=config.label_smoothing), **fake_metrics(output, ignores_rows))
