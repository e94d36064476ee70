"""The Keras side of `head_starts.py`: the study's head on ready-made features, from many random starts."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np

EPOCHS, BATCH = 5, 32


def main() -> None:
    data, starts = np.load(sys.argv[1]), int(sys.argv[2])
    accuracies = []
    for seed in range(starts):
        keras.utils.set_random_seed(seed)
        model = head(classes=int(data["train_targets"].max()) + 1)
        rng = np.random.default_rng(seed)
        for _ in range(EPOCHS):
            views = rng.integers(data["train_features"].shape[1], size=len(data["train_targets"]))
            drawn = data["train_features"][np.arange(len(views)), views]
            model.fit(drawn, data["train_targets"], batch_size=BATCH, shuffle=True, verbose=0)
        answers = model.predict(data["test_features"][:, 0], verbose=0).argmax(axis=1)
        accuracies.append(float((answers == data["test_targets"]).mean()))
    print(json.dumps(accuracies))


def head(classes: int) -> keras.Model:
    """As in reference_keras.py, without the network below it."""
    layers = [
        keras.layers.BatchNormalization(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(classes, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, decay_steps=10_000, decay_rate=0.9)
    model.compile(keras.optimizers.SGD(rate), loss="sparse_categorical_crossentropy")
    return model


if __name__ == "__main__":
    main()
