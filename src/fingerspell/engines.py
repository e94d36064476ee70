"""What runs a backbone over many pictures: torch on a graphics card, OpenVINO on a processor.

Beside them stands MediaPipe, whose "network" is a search for the hand (``hands.py``). This is the one place that knows
of devices, precisions and batches. Lower precision is used where it costs next to nothing: float32 features are the
reference, and how near the others come is measured on rendered hands before they are trusted (``graphs.Agreement``),
and once more on the pictures of every run that uses them (``precision``).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from fingerspell import graphs, hands, images
from fingerspell.errors import BackboneError
from fingerspell.hands import LOOKS
from fingerspell.streams import batched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fingerspell.backbones import Backbone
    from fingerspell.hands import Detector, Row
    from fingerspell.images import Pixels, View
    from fingerspell.recipes import EngineKind, Precision

    Vectors = NDArray[np.float32]
    Prepared = NDArray[Any]  # what an engine prepares of a picture: pixels (size, size, 3), or a row of its hand

Key = TypeVar("Key")

# 8 bits are trusted with a backbone whose features keep this mean cosine to float32's. VGG16 and ResNets stay above
# 0.999; EfficientNet-Lite0 falls to 0.98, and with it the accuracy (docs/performance.md).
_TRUSTED_COSINE = 0.998

_OPENVINO_PRECISION = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


class Engine(ABC):
    """What turns pictures into vectors, in a precision.

    Attributes
    ----------
    name : str
        "torch", "openvino" or "mediapipe".
    title : str
        Of what it runs, as the user asked for it.
    precision : str
        "float32", "bfloat16" or "int8".
    dimension : int
        Length of a vector.
    hands : Hands or None
        What is done with the points of the hands besides.
    calls : int
        Batches computed so far.
    side : int or None
        Pixels of a picture's longer side that are enough for it; None: it needs them all.
    """

    name: str
    hands: Hands | None = None
    side: int | None = None

    def __init__(self, title: str, dimension: int, precision: Precision) -> None:
        self.title, self.dimension, self.precision = title, dimension, precision
        self.calls = 0

    @property
    @abstractmethod
    def identity(self) -> str:
        """Everything the vectors depend on besides the picture, as JSON: the key of the feature cache."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What a model's card says of its inputs: size, interpolation, crop and hands (``model.Card``)."""

    @abstractmethod
    def graph(self, folder: Path) -> Path | None:
        """ONNX graph of the backbone, under the folder of graphs; None where vectors are all that a model takes."""

    @abstractmethod
    def prepare(self, pixels: Pixels, view: View, row: Row | None) -> Prepared:
        """What goes into the network: from a decoded picture (height, width, 3), and its hand where it is looked for.

        The same function prepares a picture for the exported model (``model.Model.prepare``).
        """

    @abstractmethod
    def stream(self, pictures: Iterable[tuple[Key, Prepared]]) -> Iterator[tuple[list[Key], Vectors]]:
        """Keys and float32 vectors (n, dimension) of (key, prepared picture), in order, batch by batch.

        Pictures are drawn while the network works on earlier ones.
        """


class HandsEngine(Engine):
    """MediaPipe's search for the hand, as a backbone whose vector is the row of ``hands.py``.

    Preparing a picture is all the work: threads do it, each with an instance of its own.
    """

    name = "mediapipe"
    _BATCH = 64  # rows that are remembered together

    def __init__(self, detector: Detector) -> None:
        super().__init__(hands.NAME, hands.ROW, "float32")
        self.detector = detector

    @property
    def identity(self) -> str:
        """See ``Engine.identity``."""
        facts = {"backbone": self.title, "weights": self.detector.sha256, "precision": self.precision}
        return json.dumps(facts | self.detector.identity, sort_keys=True)

    def inputs(self) -> dict[str, Any]:
        """See ``Engine.inputs``."""
        return {"size": None, "interpolation": None, "hands": self.detector.identity}

    def graph(self, folder: Path) -> None:
        """See ``Engine.graph``."""

    def prepare(self, pixels: Pixels, view: View, row: Row | None) -> Row:
        """Row of the view, (524,)."""
        return self.detector.look(images.view_of(pixels, view))

    def stream(self, pictures: Iterable[tuple[Key, Prepared]]) -> Iterator[tuple[list[Key], Vectors]]:
        """See ``Engine.stream``."""
        for batch in batched(pictures, self._BATCH):
            self.calls += 1
            yield [key for key, _ in batch], np.stack([row for _, row in batch]).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Hands:
    """What the engine of a network does with the points of the hands.

    Attributes
    ----------
    engine : HandsEngine
    crop : bool
        The network sees the hand alone.
    joined : bool
        For a head that reads both: the network sees the picture in the shape of each look, and the vectors of all stand
        behind the row of the picture.
    """

    engine: HandsEngine
    crop: bool
    joined: bool


class NetworkEngine(Engine):
    """A backbone on a device.

    Pictures go through in batches of exactly ``batch`` (the last one is padded): a kernel that a library chooses by
    batch size would otherwise change a vector's last bits with its neighbours.

    Attributes
    ----------
    backbone : Backbone
    batch : int
    looks : int
        Network inputs of a picture; its vector is that of all of them in a row.
    """

    name: EngineKind

    def __init__(self, backbone: Backbone, precision: Precision, batch: int, hands: Hands | None = None) -> None:
        self.looks = LOOKS if hands and hands.joined else 1
        super().__init__(backbone.name, backbone.dimension * self.looks, precision)
        self.backbone, self.batch, self.hands = backbone, batch, hands
        if backbone.preprocessing.padded and not (hands and hands.crop):
            self.side = backbone.preprocessing.size

    @property
    def identity(self) -> str:
        """See ``Engine.identity``. Not the engine's name: in the same precision engines agree to rounding."""
        facts = json.loads(self.backbone.identity)
        if self.precision != "float32":
            facts |= {"precision": self.precision, "graph": graphs.VERSION}
        if self.hands and self.hands.crop:
            facts |= {"crop": hands.VERSION} | self.hands.engine.detector.identity
        if self.looks > 1:
            facts |= {"looks": hands.STRETCHES}
        return json.dumps(facts, sort_keys=True)

    def inputs(self) -> dict[str, Any]:
        """See ``Engine.inputs``."""
        preprocessing = self.backbone.preprocessing
        facts: dict[str, Any] = {"size": preprocessing.size, "interpolation": preprocessing.interpolation}
        if preprocessing.padded:
            facts["padded"] = True
        if self.hands:
            facts["hands"] = self.hands.engine.detector.identity
            facts["crop"] = "hand" if self.hands.crop else None
        return facts

    def graph(self, folder: Path) -> Path:
        """See ``Engine.graph``."""
        return graphs.backbone_graph(self.backbone, folder)

    def prepare(self, pixels: Pixels, view: View, row: Row | None) -> Pixels:
        """Pixels (size, size, 3), or of each look, (looks, size, size, 3)."""
        how = self.backbone.preprocessing
        crop_row = row if self.hands and self.hands.crop else None
        return hands.network_input(
            pixels, how.size, how.interpolation, view, crop_row, padded=how.padded, looks=self.looks
        )

    def _stacked(self, batch: Sequence[tuple[Key, Prepared]]) -> tuple[list[Key], Pixels]:
        """Keys, and a full batch of network inputs (batch * looks, size, size, 3)."""
        self.calls += 1
        pixels = [picture for _, picture in batch]
        full = np.stack(pixels + [pixels[0]] * (self.batch - len(pixels)))
        return [key for key, _ in batch], full.reshape(-1, *full.shape[-3:])

    def _vectors(self, outputs: Vectors, count: int) -> Vectors:
        """Vectors (count, dimension) of a batch's pictures from those of its network inputs."""
        return outputs.reshape(self.batch, self.dimension)[:count]


class TorchEngine(NetworkEngine):
    """Torch, on the graphics card if there is one. Float32 and nothing less, so the vectors are a processor's."""

    name = "torch"

    def __init__(self, backbone: Backbone, hands: Hands | None = None) -> None:
        self._device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        super().__init__(backbone, "float32", 64 if self._device.type == "cpu" else 256, hands)

    def stream(self, pictures: Iterable[tuple[Key, Prepared]]) -> Iterator[tuple[list[Key], Vectors]]:
        """See ``Engine.stream``."""
        network = self.backbone.network.to(self._device)
        try:
            for batch in batched(pictures, self.batch):
                keys, pixels = self._stacked(batch)
                # Without the flag cuDNN would round the inputs of convolutions to 10 bits (TF32).
                with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                    vectors = network(torch.from_numpy(pixels).to(self._device)).cpu().numpy()
                yield keys, self._vectors(vectors, len(keys))
        finally:
            network.to("cpu")  # where the rest of a run expects it


class OpenVinoEngine(NetworkEngine):
    """OpenVINO on the processor: a batch on each core, and more waiting so that none is ever idle."""

    name = "openvino"
    _WAITING = 2  # batches beyond those that are computed

    def __init__(self, backbone: Backbone, precision: Precision, graph: Path, hands: Hands | None = None) -> None:
        super().__init__(backbone, precision, 16, hands)
        self._graph = graph

    @cached_property
    def _requests(self) -> list[Any]:
        """Compiled network, once for each batch under way; only made when there is something to compute."""
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(self._graph)
        except RuntimeError as error:
            raise graphs.damaged(self._graph) from error
        size = self.backbone.preprocessing.size
        model.reshape([self.batch * self.looks, size, size, 3])
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISION[self.precision]}
        compiled = core.compile_model(model, "CPU", options)
        busy = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        return [compiled.create_infer_request() for _ in range(busy + self._WAITING)]

    def stream(self, pictures: Iterable[tuple[Key, Prepared]]) -> Iterator[tuple[list[Key], Vectors]]:
        """See ``Engine.stream``."""
        free, running = deque[Any](), deque[tuple[list[Key], Any]]()

        def finish_first() -> tuple[list[Key], Vectors]:
            keys, request = running.popleft()
            request.wait()
            free.append(request)
            return keys, self._vectors(request.get_output_tensor().data, len(keys)).copy()

        try:
            for number, batch in enumerate(batched(pictures, self.batch)):
                if not number:
                    free.extend(self._requests)
                keys, pixels = self._stacked(batch)
                request = free.popleft()
                request.start_async({0: pixels})
                running.append((keys, request))
                if not free:
                    yield finish_first()
            while running:
                yield finish_first()
        finally:
            for _, request in running:
                request.wait()


def open_engine(
    backbone: Backbone,
    folder: Path,
    *,
    engine: EngineKind | None = None,
    precision: Precision | None = None,
    hands: Hands | None = None,
) -> NetworkEngine:
    """Fastest engine that this machine has for a backbone, at no cost in accuracy.

    Parameters
    ----------
    backbone
        Network to run.
    folder
        Where graphs are remembered; the first time a backbone is seen here it takes some seconds to make them.
    engine
        "torch" or "openvino"; None chooses: torch where there is a graphics card, OpenVINO elsewhere.
    precision
        "float32", "bfloat16" or "int8"; None chooses the fastest whose features are as good as float32's.
    hands
        What to do with the points of the hands; None: pictures are seen whole, and nothing looks for hands.

    Raises
    ------
    BackboneError
        If the engine or the processor does not know the precision.
    """
    if (engine or _default_engine()) == "torch":
        if precision not in {None, "float32"}:
            raise BackboneError(
                f"engine torch computes features in float32, found precision {precision}. "
                "Leave --precision out, or give --engine openvino."
            )
        return TorchEngine(backbone, hands)
    chosen = precision or _trusted_precision(backbone, folder)
    if chosen == "bfloat16" and not _has_bfloat16():
        raise BackboneError("this processor has no bfloat16 instructions. Leave --precision out, or give float32.")
    graph = graphs.int8_graph if chosen == "int8" else graphs.backbone_graph
    return OpenVinoEngine(backbone, chosen, graph(backbone, folder), hands)


def _default_engine() -> EngineKind:
    return "torch" if torch.accelerator.is_available() else "openvino"


def _trusted_precision(backbone: Backbone, folder: Path) -> Precision:
    found = graphs.read_agreement(graphs.int8_graph(backbone, folder))
    if found and found.mean_cosine >= _TRUSTED_COSINE:
        return "int8"
    return "float32"  # bfloat16 where asked for: what it costs has not been measured


def _has_bfloat16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
