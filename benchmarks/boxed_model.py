"""Size, time and memory of the model in the box, on one core: whole frame of a file to letter.

    python benchmarks/boxed_model.py

A hand that fills the frame is found at once, and a smaller one is looked for once more. Times are medians; the machine
may be shared, so read the quickest of a few runs.
"""

from __future__ import annotations

import io
import itertools
import os
import resource
import statistics
import time

if hasattr(os, "sched_setaffinity"):  # before anything counts the cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
from PIL import Image

from fingerspell.model import BOXED, load_model
from fingerspell.rendering import render_letter

_ROUNDS = 100


def _frame(width: int, height: int, *, fills: bool) -> bytes:
    """JPEG of a camera's size with a rendered hand on it: all over it, or over a part of its height."""
    side = width if fills else height // 2
    hand = Image.fromarray(render_letter("B", np.random.default_rng(14), 256)).resize((side, side))
    frame = Image.new("RGB", (width, height), "grey")
    frame.paste(hand, ((width - side) // 2, (height - side) // 2))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    started = time.perf_counter()
    model = load_model()
    loaded = time.perf_counter() - started
    sizes = {path.name: path.stat().st_size for path in BOXED.iterdir() if path.is_file()}
    print(f"size      {sum(sizes.values()) / 1e6:.1f} MB, of these model.onnx {sizes['model.onnx'] / 1e6:.1f} MB")
    print(f"loading   {loaded * 1e3:.0f} ms")
    for (width, height), fills in itertools.product(((200, 200), (640, 480), (1280, 720)), (True, False)):
        data, seconds, network = _frame(width, height, fills=fills), [], []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            model.predict(data)
            seconds.append(time.perf_counter() - start)
            seen = model.prepare(data)
            start = time.perf_counter()
            model.probabilities([seen])
            network.append(time.perf_counter() - start)
        whole, inside = statistics.median(seconds) * 1e3, statistics.median(network) * 1e3
        hand = "fills the frame" if fills else "is smaller"
        print(
            f"{width:4} x {height:<4} hand {hand:15} {whole:6.1f} ms on one core, {inside:.1f} ms of it in the network"
        )
    print(f"memory    {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most, Python and all")


if __name__ == "__main__":
    main()
