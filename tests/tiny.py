"""A network of a few hundred parameters, `--architecture tiny`, whose training takes seconds where compact's takes minutes."""
from detector.model.architectures import ARCHITECTURES, Architecture


def tiny(image_size, weights, l2):
    import keras
    from keras import layers, regularizers

    image = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Dense(2, activation="softmax", kernel_regularizer=regularizers.L2(l2), dtype="float32", name="verdict")(x)
    return keras.Model(image, x, name="tiny")


def register():
    ARCHITECTURES["tiny"] = Architecture(tiny, weights="none", learning_rate=3e-3, has_backbone=False)
