"""A trained model: load its folder, and name the letters on pictures. Needs onnxruntime, no torch.

model/  model.onnx        RGB uint8 pictures (N, size, size, 3), or rows of hands, or both -> probabilities (N, labels)
                          and from a reader also where the hand is: features (N, 94), see ``Hand``; with rows of hands
                          beside them, pictures are those of all looks (``hands.py``), ``LOOKS`` for each row
        head.safetensors  the trained part alone
        model.json        labels, input, and where it all came from (``Card``)
        README.md         the same for people
        SHA256SUMS        digests of these files (`sha256sum --check SHA256SUMS`)
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from fingerspell import hands, images
from fingerspell.errors import ModelError, UnreadableError
from fingerspell.files import file_digest, result_in
from fingerspell.images import Interpolation
from fingerspell.streams import batched, ordered_map, processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from fingerspell.hands import Detector
    from fingerspell.images import View

    # Inputs of the network by name: pictures (size, size, 3) or those of all looks (4, size, size, 3), hands (524,).
    Seen = dict[str, NDArray[Any]]
    Probabilities = NDArray[np.float32]

FORMAT = 5
_READ = (3, 4, FORMAT)  # before 4 no picture was padded; before 5 a fusion saw pictures as they are
NO_LETTER = "no letter"
BOXED = Path(__file__).parent / "boxed"
_BATCH = 4  # pictures that go through the network at once: 32 of a reader's take 0.7 GiB more, and no less time


@checked_dataclass(frozen=True)
class Card:
    """What a model folder says of itself, in ``model.json``.

    Attributes
    ----------
    format : int
        Version of this file.
    name : str
    labels : tuple of str
        Meaning of the outputs, in order.
    size : int or None
        Side of the input in pixels; None if the points of the hands are all that is seen.
    interpolation : str or None
        How pictures are resized to it.
    hands : dict or None
        What the points of the hands depend on (``hands.Detector.identity``); None if nothing looks for hands.
    crop : "hand" or None
        Whether a picture is cut to its hand.
    padded : bool
        Whether a picture is fitted into a square and the rest filled with its edges, and not squeezed into one.
    strangers : dict or None
        Of a model that was trained on all groups: how models of its recipe read each group that they had not seen.
    backbone : dict
        Name, digest of the weights, preprocessing.
    head : str
    trained_on : dict
        Archive, digest of its pictures, split protocol, numbers of pictures.
    scores : dict
        As in ``metrics.json``.
    temperature : float
        What the logits were divided by, inside ``model.onnx``, so that probabilities mean what they say.
    threshold : float
        Probability of the best letter below which the answer is "no letter".
    risk : float
        Share of wrong letters among those named on validation pictures, which the threshold was chosen for.
    notes : tuple of str
        What a user must know, licences included.
    """

    format: int
    name: str
    labels: tuple[str, ...]
    size: int | None
    interpolation: Interpolation | None
    backbone: dict[str, Any]
    head: str
    trained_on: dict[str, Any]
    scores: dict[str, Any]
    temperature: float
    threshold: float
    risk: float
    notes: tuple[str, ...] = ()
    hands: dict[str, Any] | None = None
    crop: Literal["hand"] | None = None
    padded: bool = False
    strangers: dict[str, Any] | None = None

    @property
    def looks(self) -> int:
        """How many network inputs a picture gives."""
        return hands.LOOKS if self.head == "fusion" else 1

    def place_of(self, digest: str) -> str | None:
        """What stood before the ids of an archive's pictures in training ("": nothing); None if it was not there."""
        if self.trained_on["pictures_sha256"] == digest:
            return ""
        return next((f"{stem}/" for stem, own in self.trained_on.get("parts", {}).items() if own == digest), None)

    def knows(self, digest: str) -> bool:
        """Whether some of an archive's pictures trained it."""
        place = self.place_of(digest)
        return place is not None and place != f"{self.trained_on.get('held_out')}/"

    @property
    def reads(self) -> bool:
        """Whether the network is a reader that sees whole pictures, and so says where on them the hand is."""
        return self.backbone.get("backbone") == hands.READER and self.crop is None


_CARD = TypeAdapter(Card)


@dataclass(frozen=True, slots=True)
class Hand:
    """Where a reader sees a hand. Places are shares of the picture's width and height, from the top left.

    Attributes
    ----------
    present : float
        How surely there is a hand at all, 0 to 1: not calibrated, and too high of scenes that are like no training
        picture.
    right : float
        Probability that it is a right one.
    box : tuple
        Left, top, right and bottom of the square that was read; it may reach beyond the picture.
    points : tuple
        21 points (x, y, z) in MediaPipe's order, z (depth) in the scale of x.
    """

    present: float
    right: float
    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answer to one picture: a letter or "no letter"; the likeliest letter and its probability, and the runner-up's.

    A model whose network is a reader also says where the ``hand`` is.
    """

    id: str
    answer: str
    letter: str
    probability: float
    runner_up: str
    runner_up_probability: float
    hand: Hand | None = None


class Model:
    """A loaded model.

    Attributes
    ----------
    card : Card
        What the model's folder says of it.
    detector : Detector or None
        Of the hands, if the model looks for them.
    """

    def __init__(self, card: Card, session: onnxruntime.InferenceSession, detector: Detector | None = None) -> None:
        self.card, self.detector = card, detector
        self._session = session
        self._inputs = [entry.name for entry in session.get_inputs()]
        self._outputs = ["probabilities", *(["features"] if card.reads else [])]

    def prepare(self, data: bytes, view: View = "original") -> Seen:
        """Inputs of the network, by name, from the bytes of a picture file: as the recipe's engine prepares them.

        Raises
        ------
        UnreadableError
            If the bytes are no readable picture.
        """
        card = self.card
        enough = card.size if card.padded and not card.crop else None
        pixels, row = images.decode(data, enough).pixels, None
        if self.detector:  # which needs all pixels
            whole = pixels if enough is None else images.decode(data).pixels
            row = self.detector.look(images.view_of(whole, view))
        seen: Seen = {}
        if card.size is not None and card.interpolation is not None:
            crop_row = row if card.crop else None
            size, how = card.size, card.interpolation
            seen["pictures"] = hands.network_input(
                pixels, size, how, view, crop_row, padded=card.padded, looks=card.looks
            )
        if row is not None and "hands" in self._inputs:
            seen["hands"] = row
        if card.reads:
            seen["frame"] = np.array(pixels.shape[1::-1]) / max(pixels.shape[:2])
        return seen

    def probabilities(self, batch: Sequence[Seen]) -> Probabilities:
        """Probabilities (N, labels) of prepared pictures."""
        result: Probabilities = self._run(batch)[0]
        return result

    def answers(self, names: Sequence[str], batch: Sequence[Seen]) -> list[Prediction]:
        """Answers to prepared pictures with these names."""
        outputs = self._run(batch)
        found = predictions(names, outputs[0], self.card.labels, self.card.threshold)
        if not self.card.reads:
            return found
        read = zip(found, outputs[1][:: self.card.looks], batch, strict=True)
        return [replace(answer, hand=_hand(vector, seen["frame"])) for answer, vector, seen in read]

    def predict(self, data: bytes, name: str = "") -> Prediction:
        """Letter on one picture, from the bytes of its file.

        Raises
        ------
        UnreadableError
            If the bytes are no readable picture.
        """
        return self.answers([name], [self.prepare(data)])[0]

    def predictions(
        self, files: Iterable[tuple[str, bytes]], on_unreadable: Callable[[str, str], None]
    ) -> Iterator[Prediction]:
        """Answer to each picture, as ``stream`` goes through them."""
        for batch in batched(self._prepared(files, on_unreadable, "original"), _BATCH):
            yield from self.answers([name for name, _ in batch], [seen for _, seen in batch])

    def stream(
        self,
        files: Iterable[tuple[str, bytes]],
        on_unreadable: Callable[[str, str], None],
        view: View = "original",
    ) -> Iterator[tuple[str, Probabilities]]:
        """Id and probabilities (labels,) of each picture, in order, in bounded memory.

        Parameters
        ----------
        files
            Id and bytes of each picture.
        on_unreadable
            Called with id and reason for each picture that cannot be decoded; the others go on.
        view
            "mirrored" looks at the mirror images.
        """
        for batch in batched(self._prepared(files, on_unreadable, view), _BATCH):
            probabilities = self.probabilities([seen for _, seen in batch])
            yield from zip([name for name, _ in batch], probabilities, strict=True)

    def _run(self, batch: Sequence[Seen]) -> list[NDArray[np.float32]]:
        feed = {name: np.stack([seen[name] for seen in batch]) for name in self._inputs}
        if self.card.looks > 1:
            feed["pictures"] = np.concatenate(feed["pictures"])
        return list(self._session.run(self._outputs, feed))

    def _prepared(
        self, files: Iterable[tuple[str, bytes]], on_unreadable: Callable[[str, str], None], view: View
    ) -> Iterator[tuple[str, Seen]]:
        def prepare(file: tuple[str, bytes]) -> tuple[str, Seen | UnreadableError]:
            name, data = file
            try:
                return name, self.prepare(data, view)
            except UnreadableError as error:
                return name, error

        for name, seen in ordered_map(prepare, files, size=lambda file: math.inf if self.detector else len(file[1])):
            if isinstance(seen, UnreadableError):
                on_unreadable(name, str(seen))
            else:
                yield name, seen


def is_model(path: Path | str) -> bool:
    """Whether a folder is a model's or a run's, whole or not, or another result of ours: no pictures to be read."""
    folder = Path(path)
    names = ("model.json", "model.onnx", "model/model.json", "model/model.onnx")
    return any((folder / name).exists() for name in names) or result_in(folder) is not None


def load_model(path: Path | str | None = None, hand_model: Path | None = None) -> Model:
    """Load a model folder, or the one inside a run's folder; without one the model in the box.

    Parameters
    ----------
    path
        Folder; None: the reader that comes with this package.
    hand_model
        MediaPipe's model file, for a model that looks for hands; None: fetched once.

    Raises
    ------
    ModelError
        If a file is missing, damaged, or of another version.
    MissingDependencyError
        If the model looks for hands and mediapipe is not installed.
    BackboneError
        If MediaPipe's model file cannot be had.
    """
    folder = BOXED if path is None else Path(path)
    if path is None and not folder.exists():
        raise ModelError("this installation has no model in its box. Name one: the folder of a run, or of its model.")
    if (folder / "model" / "model.json").exists():
        folder = folder / "model"
    for name in ("model.json", "model.onnx"):
        if not (folder / name).exists():
            raise ModelError(
                f"{folder}: no {name} in this folder: found {result_in(folder) or 'no model'}, expected a finished run "
                "(runs/<name>) with model/ in it, or that model folder. Of a study of strangers name one of folds/*, "
                "or make a model of all groups: `fingerspell strangers ... --final`."
            )
    content = (folder / "model.json").read_bytes()
    _check_format(folder, content)
    try:
        card = _CARD.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"{folder / 'model.json'}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}. "
            "The file was changed or cut; train or copy the model again."
        ) from error
    _check_digests(folder)
    detector = _detector(folder, card.hands, hand_model) if card.hands else None
    return Model(card, _session(folder / "model.onnx"), detector)


def predictions(
    ids: Sequence[str], probabilities: Probabilities, labels: Sequence[str], threshold: float
) -> list[Prediction]:
    """Answer, best and second-best letter of each picture, from probabilities (N, labels)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")

    def answer(row: Probabilities, first: int) -> str:
        return labels[first] if row[first] >= threshold else NO_LETTER

    return [
        Prediction(name, answer(row, first), labels[first], float(row[first]), labels[second], float(row[second]))
        for name, row, (first, second) in zip(ids, probabilities, order[:, :2], strict=True)
    ]


def _hand(vector: NDArray[np.float32], frame: NDArray[np.float64]) -> Hand:
    """Hand of a picture from what the reader says (94,) of it padded to a square; ``frame`` is its part of that."""
    points = vector[hands.Reading.HAND].reshape(-1, 3) / (*frame, frame[0]) - (*(0.5 / frame - 0.5), 0)
    present, right, x, y, side = vector[hands.Reading.PRESENT :].tolist()
    corners = np.array([[x - side / 2, y - side / 2], [x + side / 2, y + side / 2]])
    left, top, end, bottom = ((corners - 0.5) / frame + 0.5).ravel().tolist()
    return Hand(present, right, (left, top, end, bottom), tuple((x, y, z) for x, y, z in points.tolist()))


def _detector(folder: Path, expected: dict[str, Any], file: Path | None) -> Detector:
    """Detector that finds the points that the model was trained on."""
    detector = hands.open_detector(file)
    if detector.identity != expected:
        trained, here = (
            ", ".join(f"{name} {str(value)[:12]}" for name, value in facts.items())
            for facts in (expected, detector.identity)
        )
        raise ModelError(
            f"{folder}: the model was trained on hands found with {trained}; found {here}. "
            "Give the same model file with --hand-model and install the same major version of mediapipe, or train it "
            "again."
        )
    return detector


def _check_format(folder: Path, content: bytes) -> None:
    """Refuse another version before anything else is asked of the card; damage is left to those who come after."""
    found, head = None, None
    with suppress(ValueError, AttributeError, RecursionError):
        card = json.loads(content)
        found, head = card.get("format"), card.get("head")
    known = (FORMAT,) if head == "fusion" else _READ
    if isinstance(found, int) and found not in known:
        raise ModelError(
            f"{folder}: the model has format {found}, this version of fingerspell reads "
            f"{', '.join(map(str, known))}. "
            "Use the version that made it, or train it again."
        )


def _check_digests(folder: Path) -> None:
    """Refuse a model of which a byte is not as it was written."""
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        raise ModelError(
            f"{folder}: no SHA256SUMS in this folder, so nobody knows if the model is whole. Copy it again."
        )
    lines = [line.split() for line in sums.read_text("utf-8", errors="replace").splitlines()]
    expected = {line[1]: line[0] for line in lines if len(line) == 2}
    for name in ("model.json", "model.onnx", "head.safetensors"):
        if not (folder / name).exists():
            raise ModelError(f"{folder}: no {name} in this folder. Copy the model again, all of it.")
        if expected.get(name) != file_digest(folder / name):
            raise ModelError(
                f"{folder / name}: not the file that was written: its digest is not that in SHA256SUMS. "
                "The file was changed or cut; train or copy the model again."
            )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: its warnings speak of graph internals
    options.intra_op_num_threads = processors()  # it counts those of the machine, and two on one core halve the speed
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but this one
        raise ModelError(f"{path}: not a readable ONNX file ({error}). Train or copy the model again.") from error
