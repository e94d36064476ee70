"""Write a trained model as a folder that explains itself; ``model.py`` reads it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor, nn

from fingerspell.files import write_bytes, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fingerspell.backbones import Backbone
    from fingerspell.model import Card

_OPSET = 18  # understood by every onnxruntime since 1.14


class _Classifier(nn.Module):
    """Pictures to probabilities: backbone with its preprocessing, head, softmax."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.softmax(self.head(self.backbone(pictures)), dim=1)


def write_model(folder: Path, backbone: Backbone, head: nn.Module, card: Card) -> None:
    """Write model.onnx, head.safetensors, model.json and README.md into ``folder``."""
    write_bytes(folder / "model.onnx", _onnx(backbone, head))
    tensors = {key: value.contiguous() for key, value in head.state_dict().items()}
    write_bytes(folder / "head.safetensors", safetensors.torch.save(tensors))
    write_text(folder / "model.json", json.dumps(asdict(card), indent=2) + "\n")
    write_text(folder / "README.md", _readme(card))


def _onnx(backbone: Backbone, head: nn.Module) -> bytes:
    """ONNX file with an input ``pictures`` (batch, size, size, 3) uint8 and an output ``probabilities``."""
    size = backbone.preprocessing.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "model.onnx"
        torch.onnx.export(
            _Classifier(backbone, head).eval(),
            (example,),
            path,
            input_names=["pictures"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
        return path.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk of its own internals from the user's screen."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _readme(card: Card) -> str:
    score = card.scores["letters"]
    low, high = score["accuracy_interval"]
    static = card.scores.get("static_letters")
    trained, backbone = card.trained_on, card.backbone
    static_too = f"; {static['accuracy']:.3f} on the 24 that are held still" if static else ""
    notes = "".join(f"- {note}\n" for note in card.notes)
    return f"""# {card.name}

Recognises held letters of the ASL manual alphabet (fingerspelling) on single pictures. J and Z are drawn in the air: on
a still picture they are a guess.

- **Trained on** {trained["train"]:,} pictures of `{trained["archive"]}` (split `{trained["protocol"]}`,
  {trained["validation"]:,} more for validation).
- **Accuracy** {score["accuracy"]:.3f} [{low:.3f}, {high:.3f}] on {score["pictures"]:,} test pictures of
  {len(card.labels)} letters{static_too}. That is a score on pictures like those it was trained on. On other people
  expect much less, and measure: `fingerspell evaluate <this folder> <archive>`.
- **Input** RGB uint8 pictures of shape (batch, {card.size}, {card.size}, 3), resized with {card.interpolation}
  interpolation; the rest of the preprocessing is inside `model.onnx`.
- **Output** probabilities of {", ".join(card.labels)}, in this order.
- **Network** {backbone["backbone"]} (frozen, weights sha256 `{backbone["weights"][:16]}`) with a {card.head} head.
{notes}
Not for: sentences, other sign languages, identifying people, or any decision about a person.
"""
