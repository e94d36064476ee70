from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from fingerspell.backbones import EMBEDDED, load_backbone
from fingerspell.errors import BackboneError
from fingerspell.testing import fake_backbone

PICTURES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8))


def save_resnet(path: Path, **metadata: str) -> tuple[Path, Any]:
    network = timm.create_model("test_resnet").eval()
    safetensors.torch.save_file(network.state_dict(), path, metadata or None)
    return path, network


def test_embedded_weights_are_imagenet_weights_and_need_no_hub() -> None:
    backbone = load_backbone(EMBEDDED, size=64)
    assert backbone.dimension == 1280
    assert backbone.weights_sha256 == "653246f58bc51a83041f31517635cb2e59f1b79d0313cf52a3f31437c768b2c7"
    assert backbone.preprocessing.mean == (127.0,) * 3
    assert backbone.preprocessing.std == (128.0,) * 3
    with torch.inference_mode():
        features = backbone.network(PICTURES)
    assert features.shape == (2, 1280)
    assert features.std() > 0.1


def test_preprocessing_is_inside_the_backbone() -> None:
    backbone = load_backbone(EMBEDDED, size=64)
    with torch.inference_mode():
        by_hand = backbone.network.layers((PICTURES.permute(0, 3, 1, 2).float() - 127) / 128)
        np.testing.assert_allclose(backbone.network(PICTURES), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("convention", "channels", "mean"), [("caffe", "bgr", 103.939), ("tf", "rgb", 127.5)])
def test_local_weights_name_their_convention(tmp_path: Path, convention: str, channels: str, mean: float) -> None:
    path, network = save_resnet(tmp_path / "w.safetensors", input=f"Keras '{convention}' convention")
    backbone = load_backbone("test_resnet", weights=path, size=64)
    assert backbone.preprocessing.channels == channels
    assert backbone.preprocessing.mean[0] == mean
    pixels = PICTURES.permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        shown = (pixels.flip(1) if channels == "bgr" else pixels) - backbone.network.mean
        expected = network.forward_head(network.forward_features(shown / backbone.network.std), pre_logits=True)
        np.testing.assert_allclose(backbone.network(PICTURES), expected, rtol=1e-3, atol=1e-4)


def test_local_weights_without_metadata_take_the_models_own_input(tmp_path: Path) -> None:
    path, _ = save_resnet(tmp_path / "w.safetensors")
    backbone = load_backbone("test_resnet", weights=path)
    config = timm.get_pretrained_cfg("test_resnet")
    assert config
    assert backbone.preprocessing.mean == tuple(255 * value for value in config.mean)
    assert backbone.preprocessing.size == config.input_size[-1]
    assert backbone.preprocessing.interpolation == config.interpolation


def test_unit_scale_is_the_studys_input(tmp_path: Path) -> None:
    path, network = save_resnet(tmp_path / "w.safetensors", input="caffe")
    backbone = load_backbone("test_resnet", weights=path, size=64, input_scale="unit")
    with torch.inference_mode():
        shown = PICTURES.permute(0, 3, 1, 2).float() / 255
        expected = network.forward_head(network.forward_features(shown), pre_logits=True)
        np.testing.assert_allclose(backbone.network(PICTURES), expected, rtol=1e-3, atol=1e-4)


def test_identity_changes_with_everything_that_changes_features(tmp_path: Path) -> None:
    first, _ = save_resnet(tmp_path / "a.safetensors")
    second, _ = save_resnet(tmp_path / "b.safetensors")
    backbones = [
        load_backbone("test_resnet", weights=first, size=64),
        load_backbone("test_resnet", weights=second, size=64),
        load_backbone("test_resnet", weights=first, size=96),
        load_backbone("test_resnet", weights=first, size=64, interpolation="nearest"),
        load_backbone("test_resnet", weights=first, size=64, input_scale="unit"),
        fake_backbone(size=64),
    ]
    assert len({backbone.identity for backbone in backbones}) == len(backbones)
    again = load_backbone("test_resnet", weights=first, size=64)
    assert again.identity == backbones[0].identity


class TestRemembered:
    """A backbone is named without loading its network."""

    def test_the_same_backbone_without_its_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, _ = save_resnet(tmp_path / "w.safetensors", input="caffe")
        first = load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory")
        with monkeypatch.context() as patch:
            patch.setattr("timm.create_model", lambda *_, **__: pytest.fail("the network was loaded"))
            again = load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory")
        assert again == first
        assert again.identity == first.identity
        with torch.inference_mode():
            np.testing.assert_array_equal(again.network(PICTURES), first.network(PICTURES))

    def test_other_weights_under_the_same_name_are_seen(self, tmp_path: Path) -> None:
        path, _ = save_resnet(tmp_path / "w.safetensors")
        first = load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory")
        save_resnet(path)
        assert load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory") != first

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"preprocessing": {}}', '{"preprocessing": 3}'])
    def test_a_damaged_memory_is_made_anew(self, tmp_path: Path, text: str) -> None:
        path, _ = save_resnet(tmp_path / "w.safetensors")
        first = load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory")
        (remembered,) = (tmp_path / "memory").iterdir()
        remembered.write_text(text)
        assert load_backbone("test_resnet", weights=path, size=64, memory=tmp_path / "memory") == first


def test_missing_hub_says_what_to_do() -> None:
    with pytest.raises(BackboneError, match=r"'test_resnet' cannot be fetched.*--weights.*--backbone efficient"):
        load_backbone("test_resnet")


def test_unknown_name_is_refused_with_similar_ones() -> None:
    with pytest.raises(BackboneError, match=r"'vgg1' is not known to timm.*vgg1[1369]"):
        load_backbone("vgg1")


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"w.pth: not a safetensors file.*Pickled weights"):
        load_backbone("test_resnet", weights=tmp_path / "w.pth")


def test_missing_weights_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"none.safetensors: there is no such weights file"):
        load_backbone("test_resnet", weights=tmp_path / "none.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path, _ = save_resnet(tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"do not fit backbone 'test_vit'.*tensors missing.*unknown"):
        load_backbone("test_vit", weights=path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path, network = save_resnet(tmp_path / "w.safetensors")
    state = network.state_dict()
    key = next(iter(state))
    safetensors.torch.save_file(state | {key: torch.zeros(1)}, path)
    with pytest.raises(BackboneError, match=f"1 of another shape .such as {key}"):
        load_backbone("test_resnet", weights=path)


def test_unknown_convention_is_refused(tmp_path: Path) -> None:
    path, _ = save_resnet(tmp_path / "w.safetensors", input="upside down")
    with pytest.raises(BackboneError, match=r"'upside down'.*Expected one of caffe, tf, torch"):
        load_backbone("test_resnet", weights=path)


def test_size_that_the_backbone_refuses(tmp_path: Path) -> None:
    network = timm.create_model("test_vit")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"test_vit does not take pictures of 90x90.*--size"):
        load_backbone("test_vit", weights=tmp_path / "w.safetensors", size=90)


@pytest.mark.shared
def test_vgg16_from_the_local_file_stops_at_the_last_convolution(shared: Path) -> None:
    backbone = load_backbone("vgg16", weights=shared / "weights" / "vgg16_notop_fp16.safetensors", size=90)
    assert backbone.dimension == 512
    assert backbone.preprocessing.channels == "bgr"
    state = safetensors.torch.load_file(shared / "weights" / "vgg16_notop_fp16.safetensors")
    pixels = torch.zeros(1, 90, 90, 3, dtype=torch.uint8)
    with torch.inference_mode():
        x = (pixels.permute(0, 3, 1, 2).float().flip(1)) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
        # VGG16 by hand: thirteen 3x3 convolutions with ReLU, five poolings (configuration D of the paper)
        layer = 0
        for block in (2, 2, 3, 3, 3):
            for _ in range(block):
                weight, bias = (state[f"features.{layer}.{kind}"].float() for kind in ("weight", "bias"))
                x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
                layer += 2
            x = torch.nn.functional.max_pool2d(x, 2)
            layer += 1
        np.testing.assert_allclose(backbone.network(pixels), x.mean((2, 3)), rtol=1e-3, atol=1e-3)
