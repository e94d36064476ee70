"""Write a trained model as a folder that explains itself; ``model.py`` reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import safetensors.torch

from fingerspell.files import write_bytes, write_text
from fingerspell.graphs import classifier
from fingerspell.heads import head_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from fingerspell.model import Card


def write_model(folder: Path, graph: Path | None, head: nn.Module, card: Card) -> None:
    """Write model.onnx (head on the backbone's ``graph``), head.safetensors, model.json, README.md and SHA256SUMS."""
    tensors = {key: value.contiguous() for key, value in head.state_dict().items()}
    files = {
        "model.onnx": classifier(graph, head, with_features=card.reads),
        "head.safetensors": safetensors.torch.save(tensors),
        "model.json": (json.dumps(asdict(card), indent=2) + "\n").encode(),
        "README.md": _readme(card).encode(),
    }
    for name, data in files.items():
        write_bytes(folder / name, data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    write_text(folder / "SHA256SUMS", sums)


def read_head(folder: Path, kind: str) -> nn.Module:
    """Trained part of a model, with its temperature."""
    tensors = safetensors.torch.load((folder / "head.safetensors").read_bytes())
    return head_of(kind, tensors)


def _meaning(card: Card) -> str:
    """What the score says of other people."""
    if strangers := card.trained_on.get("held_out_in_turn"):
        unlike = ", ".join(f"`{name}` {value}" for name, value in card.trained_on["unlike_the_folds"].items())
        return (
            "This model has seen all of these pictures: that is the mean\n  score of models of the same recipe on the "
            f"group that they had not seen, over {len(strangers)} groups."
        ) + (f"\n  This one has {unlike}, unlike them." if unlike else "")
    return (
        "That is a score on pictures like those it was trained on. On other people\n  expect much less, and measure: "
        "`fingerspell evaluate <this folder> <archive>`."
    )


def _readme(card: Card) -> str:
    score = card.scores["letters"]
    low, high = score["accuracy_interval"]
    static = card.scores.get("static_letters")
    trained, backbone = card.trained_on, card.backbone
    static_too = f"; {static['accuracy']:.3f} on the 24 that are held still" if static else ""
    fitted_on = "pictures of groups that were held out" if "held_out_in_turn" in trained else "validation pictures"
    notes = "".join(f"- {note}\n" for note in card.notes)
    return f"""# {card.name}

Recognises held letters of the ASL manual alphabet (fingerspelling) on single pictures. J and Z are drawn in the air: on
a still picture they are a guess.

- **Trained on** {trained["train"]:,} pictures of `{trained["archive"]}` (split `{trained["protocol"]}`,
  {trained["validation"]:,} more for validation). {" ".join(trained.get("notes", ()))}
- **Accuracy** {score["accuracy"]:.3f} [{low:.3f}, {high:.3f}] on {score["pictures"]:,} test pictures of
  {len(card.labels)} letters{static_too}. {_meaning(card)}
{_inputs(card)}
- **Output** probabilities of {", ".join(card.labels)}, in this order.
- **No letter** where the best probability is below {card.threshold:.2f}: chosen so that at most {card.risk:.0%} of the
  letters named on {fitted_on} are wrong and, where there were any, as few pictures of no letter get one.
  Probabilities are calibrated there too (temperature {card.temperature:.2f}).
- **Network** {backbone["backbone"]} (weights sha256 `{backbone["weights"][:16]}`), head `{card.head}`.
- **Recipe** {trained["recipe"]} (sha256 `{trained["recipe_sha256"][:16]}`), pictures sha256
  `{trained["pictures_sha256"][:16]}`.
{notes}{_on_strangers(card)}
Not for: sentences, other sign languages, identifying people, or any decision about a person.
"""


def _on_strangers(card: Card) -> str:
    """Tables of a model of all groups: how models of its recipe did on the group that they had not seen."""
    if card.strangers is None:
        return ""
    known = card.strangers
    groups = "\n".join(
        f"| {row['group']} | {row['scores']['letters']['pictures']:,} | {_cell(row['scores']['letters'])} | "
        f"{_cell(row['scores'].get('static_letters'))} |"
        for row in known["groups"]
    )
    letters = "\n".join(f"| {letter} | {recall:.2f} |" for letter, recall in known["letters"].items())
    conditions = "\n".join(f"| {name} | {accuracy:.3f} |" for name, accuracy in known["conditions"].items())
    return f"""
## On people that were not trained on

Each group was held out in turn; every picture of it counts. On other strangers than those they were fitted on,
probabilities have a calibration error of {known["calibration_error"]:.3f}, and a letter is named on
{known["named"]:.0%} of the pictures ({_wrong(known)}).

| held out | pictures | 26 letters | 24 held still |
|---|---|---|---|
{groups}

Ten pictures of each letter as they are, mirrored as for the other hand, in other light, coarser and blurred; means
over the groups.

| pictures | accuracy |
|---|---|
{conditions}

| letter | share read right |
|---|---|
{letters}
"""


def _wrong(known: dict[str, Any]) -> str:
    share = known["wrong_of_named"]
    return "none of these letters is known to be wrong" if share is None else f"{share:.0%} of these letters are wrong"


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    low, high = score["accuracy_interval"]
    return f"{score['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def _inputs(card: Card) -> str:
    """What `model.onnx` takes."""
    lines = []
    fitted = " until they fit, in the middle\n  and with their edges repeated around them" if card.padded else ""
    count = "batch" if card.looks == 1 else f"{card.looks} * batch"
    if card.size is not None:
        lines.append(
            f"- **Input** RGB uint8 pictures of shape ({count}, {card.size}, {card.size}, 3), resized with\n  "
            f"{card.interpolation} interpolation{fitted}; the rest of the preprocessing is inside `model.onnx`."
        )
    if card.looks > 1:
        lines.append(
            "- **Looks** each picture is seen as it is, wider, and taller twice (`fingerspell.hands.STRETCHES`)."
        )
    if card.reads:
        lines.append(f"- **Second output** `features` ({count}, 94): where the hand is (`fingerspell.model.Hand`).")
    if card.crop:
        lines.append(
            "- **Crop** a picture is cut to its hand first (`fingerspell.hands.crop`), and a left hand mirrored."
        )
    if card.hands:
        lines.append(
            f"- **Hands** are looked for by MediaPipe (model sha256 `{card.hands['hands'][:16]}`), which "
            "using this model needs:\n  `pip install 'fingerspell[hands]'`. A row holds what `fingerspell.hands` says."
        )
    return "\n".join(lines)
