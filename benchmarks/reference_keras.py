"""The study's recipe in Keras, on its own: what `fingerspell train` is measured against.

    python -m venv keras && keras/bin/pip install -r benchmarks/reference_keras.txt
    keras/bin/python benchmarks/reference_keras.py ARCHIVE.zip --split runs/NAME/split.csv --weights FILE --out DIR

Nothing of fingerspell is used. The archive is unpacked to a scratch folder; Keras's generators read, resize (90x90,
nearest) and flip the pictures in every epoch; VGG16 without its top, frozen, and a batch norm and dense head are fitted
as one model. The pictures of each role come from a run's split.csv, so that both see the same ones. Needs an
environment of its own: `benchmarks/reference_keras.txt`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from safetensors.numpy import load_file
from sklearn.metrics import classification_report

SIZE = 90
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    start = time.perf_counter()
    keras.utils.set_random_seed(0)
    table = pd.read_csv(arguments.split, keep_default_na=False)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(arguments.archive) as archive:
            archive.extractall(folder, members=list(table["id"]))
        names = sorted(set(table["label"]))
        train = pictures(table, "train", folder, names, flip=True)
        validation = pictures(table, "validation", folder, names, flip=True)  # the study flipped these too
        test = pictures(table, "test", folder, names, flip=False)
        model = network(arguments.weights, classes=len(names))
        ready = time.perf_counter()
        model.fit(train, validation_data=validation, epochs=arguments.epochs, verbose=2)
        fitted = time.perf_counter()
        answers = model.predict(test, verbose=0).argmax(axis=1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.txt").write_text(classification_report(test.classes, answers, target_names=names))
    model.save(arguments.out / "model.keras")
    rows = pd.DataFrame(
        {"id": table.loc[table["role"] == "test", "id"], "predicted": [names[answer] for answer in answers]}
    )
    rows.to_csv(arguments.out / "predictions.csv", index=False)
    seen = arguments.epochs * (train.samples + validation.samples)
    facts = {
        "accuracy": float(np.mean(answers == test.classes)),
        "seconds_before": ready - start,
        "seconds_fit": fitted - ready,
        "seconds_after": time.perf_counter() - fitted,
        "pictures_per_second": seen / (fitted - ready),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
    }
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def pictures(table: pd.DataFrame, role: str, folder: str, names: list[str], *, flip: bool) -> keras.utils.PyDataset:
    """Generator of one role's batches, as the study's: the training pictures are shuffled."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=keras.applications.vgg16.preprocess_input, horizontal_flip=flip
    )
    return generator.flow_from_dataframe(
        table[table["role"] == role],
        directory=folder,
        x_col="id",
        y_col="label",
        classes=names,
        target_size=(SIZE, SIZE),
        interpolation="nearest",
        batch_size=BATCH,
        shuffle=role == "train",
        validate_filenames=False,
    )


def network(weights: Path, classes: int) -> keras.Model:
    """VGG16's convolutions, frozen, with the study's head."""
    base = keras.applications.VGG16(include_top=False, weights=None, pooling="avg", input_shape=(SIZE, SIZE, 3))
    tensors = load_file(weights)
    kernels = [layer for layer in base.layers if isinstance(layer, keras.layers.Conv2D)]
    numbers = sorted({int(name.split(".")[1]) for name in tensors})
    for layer, number in zip(kernels, numbers, strict=True):
        kernel, bias = tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"]
        layer.set_weights([kernel.transpose(2, 3, 1, 0).astype(np.float32), bias.astype(np.float32)])
    base.trainable = False
    model = keras.Sequential(
        [
            base,
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, decay_steps=10_000, decay_rate=0.9)
    model.compile(keras.optimizers.SGD(rate), loss="categorical_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    main()
