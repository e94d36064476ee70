"""Graphs and engines: the same features whatever computes them, and what fewer bits may cost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fingerspell import cache, graphs, precision
from fingerspell.archive import open_archive
from fingerspell.backbones import EMBEDDED, Backbone, Network, Preprocessing, load_backbone
from fingerspell.dataset import scan
from fingerspell.engines import Engine, Hands, HandsEngine, TorchEngine, open_engine
from fingerspell.errors import BackboneError, CacheError
from fingerspell.features import extract, open_store
from fingerspell.heads import mlp_head, probabilities
from fingerspell.images import VIEWS
from fingerspell.testing import FakeDetector, fake_backbone, fake_reader

SIZE = 32
# Without these instructions sums of products in 8 bits saturate at 16: 0.9979 was seen. What to trust is measured.
EXACT_SUMS = any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("_vnni"))


def small_network() -> Backbone:
    """Convolutions with random weights: quick to quantise, and as good at it as VGG16."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(SIZE, "nearest", "bgr", (120.0,) * 3, (60.0,) * 3)
    return Backbone.of("small", Network(network, preprocessing))


def noise(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def features(engine: Engine, pictures: np.ndarray) -> np.ndarray:
    answers = list(engine.stream(enumerate(pictures)))
    assert [key for keys, _ in answers for key in keys] == list(range(len(pictures)))
    return np.concatenate([vectors for _, vectors in answers])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.mark.parametrize("count", [1, 16, 100])
def test_engines_agree_and_keep_the_order(folder: Path, count: int) -> None:
    backbone, pictures = small_network(), noise(count)
    reference = features(TorchEngine(backbone), pictures)
    exact = features(open_engine(backbone, folder, engine="openvino", precision="float32"), pictures)
    eight_bits = features(open_engine(backbone, folder, engine="openvino", precision="int8"), pictures)
    np.testing.assert_allclose(exact, reference, atol=1e-4)
    assert graphs.agreement(eight_bits, reference).mean_cosine > (0.998 if EXACT_SUMS else 0.997)
    assert not np.allclose(eight_bits, reference, atol=1e-4)  # it is really another arithmetic


def test_a_picture_has_the_same_vector_in_any_company(folder: Path) -> None:
    engine, pictures = open_engine(small_network(), folder, engine="openvino", precision="int8"), noise(50)
    np.testing.assert_array_equal(features(engine, pictures)[20:23], features(engine, pictures[20:23]))


def test_engine_counts_its_calls_and_starts_again_after_an_error(folder: Path) -> None:
    engine, pictures = open_engine(small_network(), folder, engine="openvino", precision="float32"), noise(100)
    expected = features(engine, pictures)
    assert engine.calls == -(-100 // engine.batch)

    def broken() -> Iterator[tuple[int, np.ndarray]]:
        yield from enumerate(pictures[:90])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(engine.stream(broken()))
    np.testing.assert_array_equal(features(engine, pictures), expected)


@pytest.mark.parametrize("suffix", [".onnx", ".int8.onnx"])
def test_a_damaged_graph_is_named(tmp_path: Path, suffix: str) -> None:
    graphs.int8_graph(small_network(), tmp_path)
    path = next(p for p in tmp_path.iterdir() if p.name.count(".") == suffix.count("."))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CacheError, match=re.escape(f"{path}: this remembered network is damaged")):
        features(open_engine(small_network(), tmp_path, precision="int8" if "int8" in suffix else "float32"), noise(1))


def test_graphs_are_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = graphs.int8_graph(small_network(), folder)
    monkeypatch.setattr(graphs, "_export", lambda _: pytest.fail("exported again"))
    monkeypatch.setattr(graphs, "_quantise", lambda *_: pytest.fail("quantised again"))
    assert graphs.int8_graph(small_network(), folder) == first
    graph = graphs.backbone_graph(small_network(), folder)
    assert b"site-packages" not in graph.read_bytes()  # the exporter notes where on this machine each node comes from


def test_every_convolution_is_in_8_bits_and_no_range_is_spent_on_what_relu_cuts_off(folder: Path) -> None:
    graph = onnx.load(graphs.int8_graph(small_network(), folder)).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    assert all(made_by[edge] == "DequantizeLinear" for node in convolutions for edge in node.input)
    assert not [node for node in graph.node if node.op_type == "Relu"]  # part of the rounding now


def test_8_bits_are_chosen_where_they_agree_and_float32_where_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_engine(fake_backbone(), folder, engine="openvino").precision == "float32"  # has no convolution
    if EXACT_SUMS:
        assert open_engine(small_network(), folder, engine="openvino").precision == "int8"
    for cosine, chosen in ((0.999, "int8"), (0.99, "float32")):
        found = graphs.Agreement(cosine, 0.1, 0.1)
        monkeypatch.setattr(graphs, "read_agreement", lambda _, found=found: found)
        assert open_engine(small_network(), folder, engine="openvino").precision == chosen


def test_embedded_network_is_not_trusted_in_8_bits(folder: Path) -> None:
    """Its features differ by a fifth: the gate is there for networks like it."""
    backbone = load_backbone(EMBEDDED, size=SIZE)
    found = graphs.read_agreement(graphs.int8_graph(backbone, folder))
    assert found
    assert found.mean_cosine < 0.998
    assert open_engine(backbone, folder, engine="openvino").precision == "float32"


def test_precisions_do_not_share_remembered_vectors(folder: Path) -> None:
    exact, eight_bits = (
        open_engine(small_network(), folder, engine="openvino", precision=name) for name in ("float32", "int8")
    )
    assert exact.identity == TorchEngine(small_network()).identity != eight_bits.identity
    assert json.loads(eight_bits.identity)["precision"] == "int8"


def test_impossible_wishes_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match=r"torch computes features in float32, found precision int8\. Leave"):
        open_engine(small_network(), folder, engine="torch", precision="int8")
    monkeypatch.setattr("fingerspell.engines._has_bfloat16", lambda: False)
    with pytest.raises(BackboneError, match="no bfloat16 instructions"):
        open_engine(small_network(), folder, engine="openvino", precision="bfloat16")


def test_exported_model_is_head_on_graph(folder: Path) -> None:
    backbone, pictures = small_network(), noise(5)
    head = mlp_head(backbone.dimension, (8, 6), 4).eval()
    with torch.no_grad():
        for value in head[0].state_dict().values():
            value.copy_(torch.rand(value.shape) + 0.5)
    session = onnxruntime.InferenceSession(graphs.classifier(graphs.backbone_graph(backbone, folder), head))
    answers = session.run(["probabilities"], {"pictures": pictures})[0]
    with torch.inference_mode():
        expected = probabilities(head, backbone.network(torch.from_numpy(pictures)))
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_head_with_an_unknown_layer_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match="no layer like Dropout"):
        graphs.classifier(graphs.backbone_graph(small_network(), folder), nn.Sequential(nn.Dropout()))


def test_cost_of_8_bits_is_measured_on_the_runs_own_pictures(
    letters_zip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "graphs_folder", lambda: folder)
    backbone = small_network()
    engine = open_engine(backbone, folder, engine="openvino", precision="int8")
    head = mlp_head(backbone.dimension, (8,), 5).eval()
    with open_archive(letters_zip) as archive, open_store(cache.features_folder(), engine) as store:
        pictures = scan(archive).letters()
        extract(archive, pictures, engine, store, views=VIEWS[:1])
        facts = precision.measure_cost(archive, pictures, engine, store, head)
    assert (facts["engine"], facts["precision"], facts["pictures"]) == ("openvino", "int8", 128)
    assert 0 < facts["relative_difference"] < 0.1
    assert 100 <= facts["same_letter"] <= 128
    assert f"same letter on {facts['same_letter']}" in precision.cost_notes(facts)[0]


def test_float32_has_no_cost(letters_zip: Path) -> None:
    engine = TorchEngine(fake_backbone())
    with open_archive(letters_zip) as archive, open_store(cache.features_folder(), engine) as store:
        facts = precision.measure_cost(archive, scan(archive).letters(), engine, store, nn.Identity())
    assert facts == {"engine": "torch", "precision": "float32"}
    assert precision.cost_notes(facts) == []


@pytest.mark.parametrize(("crop", "joined", "enough"), [(False, False, True), (False, True, True), (True, True, False)])
def test_a_fitted_picture_needs_no_more_pixels_than_are_seen_but_for_a_crop(
    crop: bool, joined: bool, enough: bool
) -> None:
    reader = fake_reader()
    hands = Hands(HandsEngine(FakeDetector()), crop=crop, joined=joined) if crop or joined else None
    assert TorchEngine(reader, hands).side == (reader.preprocessing.size if enough else None)
    assert TorchEngine(small_network()).side is None
