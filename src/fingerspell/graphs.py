"""A backbone as an ONNX graph: what OpenVINO runs, what 8 bits are made from, and what an exported model holds.

<folder>/<backbone>.onnx        RGB uint8 pictures (batch, size, size, 3) -> features (batch, dimension), float32
<folder>/<backbone>.int8.onnx   the same with 8-bit convolutions; its metadata say how near its features are

Both are made once for each backbone identity and remembered, for making them takes longer than training a head.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import compose, helper, numpy_helper
from onnx.utils import Extractor
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from fingerspell import hands, images
from fingerspell.alphabet import LETTERS
from fingerspell.cache import remember, stem
from fingerspell.errors import CacheError
from fingerspell.heads import FusionHead
from fingerspell.rendering import render_letter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fingerspell.backbones import Backbone
    from fingerspell.images import Pixels

_OPSET = 18  # understood by every onnxruntime since 1.14

# Part of the name under which graphs are remembered: raise it whenever one would come out different.
VERSION = 6

_WORTH_HALVING = 256  # values of a weight

# Activations that follow a convolution are quantised with it: without their ranges, half of the 8 bits would be spent
# on the negative values that they cut off.
_QUANTISED = ["Conv", "Relu", "Clip", "MaxPool", "Add"]

# Rendered hands that show the ranges of the activations, and others that show what the 8 bits cost. Drawn pictures
# make the graph the same for every archive, and keep test pictures out of it.
_CALIBRATION, _COMPARISON = 32, 16
_RENDERED_SIZE = 128
_BATCH = 16


@dataclass(frozen=True)
class Agreement:
    """How near the features of one network in two precisions are.

    Attributes
    ----------
    mean_cosine : float
        Mean cosine of a picture's two vectors.
    relative_difference : float
        Norm of the difference over the norm of the reference, all vectors together.
    largest_difference : float
        Of any one feature, over the largest feature of the reference.
    """

    mean_cosine: float
    relative_difference: float
    largest_difference: float


def agreement(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Compare vectors (N, dimension) with the reference's, row by row."""
    difference = vectors - reference
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return Agreement(
        mean_cosine=float(((vectors * reference).sum(axis=1) / norms).mean()),
        relative_difference=float(np.linalg.norm(difference)) / float(np.linalg.norm(reference)),
        largest_difference=float(np.abs(difference).max()) / float(np.abs(reference).max()),
    )


def backbone_graph(backbone: Backbone, folder: Path) -> Path:
    """Float32 graph of a backbone, exported if it is not there yet."""
    path = _path(backbone, folder, ".onnx")
    if not path.exists():
        remember(path, _export(backbone))
    return path


def int8_graph(backbone: Backbone, folder: Path) -> Path:
    """Graph of a backbone with 8-bit convolutions, made if it is not there yet; see ``read_agreement``."""
    path = _path(backbone, folder, ".int8.onnx")
    if not path.exists():
        remember(path, _quantise(backbone_graph(backbone, folder), backbone.preprocessing.size))
    return path


def read_agreement(graph: Path) -> Agreement | None:
    """Agreement of an 8-bit graph with its float32 one, on rendered hands; None if it has nothing in 8 bits."""
    properties = {entry.key: entry.value for entry in _load(graph).metadata_props}
    return Agreement(**json.loads(properties["agreement"])) if "agreement" in properties else None


def keep_graph(backbone: Backbone, exported: Path, folder: Path) -> None:
    """Remember the backbone's part of an exported model, if its graph is not there yet."""
    path = _path(backbone, folder, ".onnx")
    if not path.exists():
        part = Extractor(_without_traces(_load(exported))).extract_model(["pictures"], ["features"])
        remember(path, part.SerializeToString())


def classifier(graph: Path | None, head: nn.Module, *, with_features: bool = False) -> bytes:
    """ONNX file of a backbone's graph with a head and softmax on top, with the outputs probabilities (batch, classes).

    Its inputs are the graph's ``pictures``, and for a head that reads hands their rows ``hands`` (batch, 524); beside
    these, ``pictures`` are those of all looks, (4 * batch, size, size, 3). Without a graph the rows are all that is
    read. With ``with_features`` the graph's features are an output too.
    """
    if graph is None:
        return bytes(_exported_head(head, dimension=0).SerializeToString())
    below = _load(graph)
    if isinstance(head, FusionHead):
        dimension = hands.LOOKS * head.dimension
        _add_of_looks(below, dimension)
        above, edges = _exported_head(head, dimension), ("features_of_looks", "above_features")
    else:
        above, edges = _head_graph(head, below.ir_version), ("features", "head.features")
    above.ir_version = below.ir_version
    outputs = ["probabilities", *(["features"] if with_features else [])]
    whole = compose.merge_models(below, above, io_map=[edges], outputs=outputs)
    return bytes(_halved(whole).SerializeToString())


def _add_of_looks(graph: onnx.ModelProto, dimension: int) -> None:
    """Add an output to a backbone's graph: the features of all looks at a picture in a row, (batch, dimension)."""
    shape, output = "shape_of_looks", "features_of_looks"
    graph.graph.initializer.append(numpy_helper.from_array(np.array([-1, dimension]), shape))
    graph.graph.node.append(helper.make_node("Reshape", ["features", shape], [output]))
    graph.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", dimension]))


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Model whose weights are stored in 16 bits wherever these hold them without a difference."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < _WORTH_HALVING:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


class _Probabilities(nn.Module):
    """A head that reads hands, with softmax on top and its inputs apart."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, rows: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        joined = rows if features is None else torch.cat([rows, features], dim=1)
        return torch.softmax(self.head(joined), dim=1)


def _exported_head(head: nn.Module, dimension: int) -> onnx.ModelProto:
    """Graph of a head that reads hands, and features of this dimension if it is not 0."""
    inputs = (torch.zeros(2, hands.ROW), torch.zeros(2, dimension))[: 2 if dimension else 1]
    names = ["hands", "above_features"][: len(inputs)]
    made = _onnx(_Probabilities(head).eval(), inputs, names, "probabilities")
    # No name may be one of the graph below.
    return compose.add_prefix(made, "head.", rename_inputs=False, rename_outputs=False)


def _load(graph: Path) -> onnx.ModelProto:
    try:
        return onnx.load(graph)
    except DecodeError as error:
        raise damaged(graph) from error


def damaged(graph: Path) -> CacheError:
    """Error for a remembered graph that nothing can read; writes are whole, so something else has changed it."""
    return CacheError(f"{graph}: this remembered network is damaged. Delete the file, or `fingerspell cache --clear`.")


def _path(backbone: Backbone, folder: Path, suffix: str) -> Path:
    return folder / f"{stem(backbone.name, f'{backbone.identity} {VERSION}')}{suffix}"


def _export(backbone: Backbone) -> bytes:
    size = backbone.preprocessing.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return bytes(_onnx(backbone.network, (example,), ["pictures"], "features").SerializeToString())


def _onnx(network: nn.Module, examples: tuple[torch.Tensor, ...], inputs: list[str], output: str) -> onnx.ModelProto:
    """Graph of a network whose inputs have any batch size."""
    batch = torch.export.Dim("batch")
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "graph.onnx"
        torch.onnx.export(
            network,
            examples,
            path,
            input_names=inputs,
            output_names=[output],
            dynamic_shapes=tuple({0: batch} for _ in examples),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
        return _without_traces(onnx.load(path))


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Model without the exporter's notes on each node and value: the paths of this machine, and a sixth of a file."""
    graph = model.graph
    for entry in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        entry.ClearField("metadata_props")
    return model


def _quantise(graph: Path, size: int) -> bytes:
    """Post-training quantisation: weights to int8 by channel, activations to uint8 by tensor, min to max."""
    operators = {node.op_type for node in onnx.load(graph).graph.node}
    if "Conv" not in operators or "NonZero" in operators:
        # 8 bits pay in convolutions alone, and ranges can be seen only where each picture goes all the way.
        return graph.read_bytes()
    pictures = _rendered(_CALIBRATION + _COMPARISON, size)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared, quantised = Path(scratch) / "prepared.onnx", Path(scratch) / "quantised.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Batches(pictures[:_CALIBRATION]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        found = agreement(_run(quantised, pictures[_CALIBRATION:]), _run(graph, pictures[_CALIBRATION:]))
        model = onnx.load(quantised)
    helper.set_model_props(model, {"agreement": json.dumps(asdict(found))})
    return bytes(model.SerializeToString())


def _rendered(count: int, size: int) -> Pixels:
    """Hands posed as every letter in turn, (count, size, size, 3), the same ones always."""
    drawn = (
        render_letter(LETTERS[number % len(LETTERS)], np.random.default_rng([0, number]), _RENDERED_SIZE)
        for number in range(count)
    )
    return np.stack([images.resize(pixels, size, "bilinear") for pixels in drawn])


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """Calibration pictures as onnxruntime asks for them."""

    def __init__(self, pictures: Pixels) -> None:
        self._batches = iter(np.array_split(pictures, -(-len(pictures) // _BATCH)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pictures": batch}


def _run(graph: Path, pictures: Pixels) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"pictures": pictures})[0]
    return result


def _head_graph(head: nn.Module, ir_version: int) -> onnx.ModelProto:
    """Head and softmax, written down layer by layer: torch's exporter takes seconds to start."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    edge = "head.features"
    layers = [*head.children(), nn.Softmax(dim=1)]
    for number, layer in enumerate(layers):
        tensors = {f"head.{number}.{name}": value for name, value in layer.state_dict().items() if value.ndim}
        weights += [numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()]
        operator, attributes = _operator(layer)
        output = "probabilities" if number == len(layers) - 1 else f"head.{number}"
        nodes.append(helper.make_node(operator, [edge, *tensors], [output], **attributes))
        edge = output
    dimension = next(iter(head.state_dict().values())).shape[-1]
    classes = list(head.state_dict().values())[-1].shape[0]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("head.features", onnx.TensorProto.FLOAT, ["batch", dimension])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", classes])],
        weights,
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", _OPSET)])


def _operator(layer: nn.Module) -> tuple[str, dict[str, Any]]:
    """ONNX operator of a layer of a head; its inputs come in the order of the layer's own tensors."""
    match layer:
        case nn.BatchNorm1d():
            return "BatchNormalization", {"epsilon": layer.eps}
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case nn.ReLU():
            return "Relu", {}
        case nn.Softmax():
            return "Softmax", {"axis": 1}
    raise TypeError(f"a head has no layer like {layer}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' talk of their own internals from the user's screen."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
