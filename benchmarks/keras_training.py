"""The Keras side of `training_speed.py`; runs in an environment of its own, with tensorflow and without us.

python benchmarks/keras_training.py NETWORK SIDE CHANNELS BATCHES BATCH_SIZE
"""

import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf


def build(name, side, channels):
    """Return the network as its original builds it."""
    if name == "mobilenet_v2":
        return keras.applications.MobileNetV2(input_shape=(side, side, channels), weights=None, classes=2)
    layers = [keras.Input((side, side, channels))]
    for _ in range(3):
        layers += [keras.layers.Conv2D(64, 3, activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu")]
    layers += [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    return keras.Sequential(layers)


class Clock(keras.callbacks.Callback):
    """Notes the time after each batch."""

    def on_train_begin(self, logs=None):
        """Start."""
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, batch, logs=None):
        """Note one batch."""
        self.times.append(time.perf_counter())


def main():
    """Train on noise; print the batches' seconds as JSON."""
    name, side, channels, batches, size = sys.argv[1], *map(int, sys.argv[2:])
    images = np.random.default_rng(0).integers(0, 256, (batches * size, side, side, channels), np.uint8)
    labels = np.arange(len(images)) % 2
    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).batch(size)
    data = data.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y)).prefetch(2)
    model = build(name, side, channels)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = Clock()
    model.fit(data, epochs=1, verbose=0, callbacks=[clock])
    print(json.dumps({"seconds": [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]}))


if __name__ == "__main__":
    main()
