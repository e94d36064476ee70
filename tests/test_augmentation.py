from __future__ import annotations

import math
from typing import cast

import pytest
import torch

from fingerspell.augmentation import augment, changes


def cornered(size: int = 32) -> torch.Tensor:
    """Dark picture whose upper left quarter is bright."""
    picture = torch.full((size, size, 3), 20, dtype=torch.uint8)
    picture[: size // 2, : size // 2] = 230
    return picture


def test_shape_and_range_stay_and_pictures_differ() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(256, (40, 24, 24, 3), dtype=torch.uint8)
    before = pictures.clone()
    changed = augment(pictures, rotation=20, mirrored=True)
    assert changed.shape == pictures.shape
    assert changed.dtype == torch.float32
    assert changed.is_contiguous()
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255
    assert torch.equal(pictures, before)
    same = augment(pictures[:1].repeat(8, 1, 1, 1), rotation=20, mirrored=True)
    assert len({tuple(picture.flatten().tolist()) for picture in same}) == 8


def test_same_seed_same_pictures() -> None:
    pictures = cornered().repeat(6, 1, 1, 1)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(pictures, rotation=20, mirrored=True))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("rotation", [0.0, 10.0, 20.0])
def test_turn_is_bounded_and_nothing_stands_on_its_head(rotation: float) -> None:
    torch.manual_seed(1)
    pictures = torch.zeros(2000, 3, 4, 4)
    matrices = []
    for mirrored in (False, True):
        changing = changes(rotation, mirrored)
        changing(pictures)
        matrices.append(cast("torch.Tensor", changing.transform_matrix))
    plain, mirrored_too = matrices
    turns = torch.rad2deg(torch.atan2(plain[:, 1, 0], plain[:, 0, 0])).abs()
    assert float(turns.max()) <= rotation + 6 + 1e-3  # and what shearing adds
    assert float(turns.max()) >= 0.9 * rotation
    assert bool((torch.linalg.det(plain[:, :2, :2]) > 0).all())
    assert bool((mirrored_too[:, 1, 1] > 0.8 * math.cos(math.radians(20 + 6))).all())  # down stays down
    assert 0.45 < float((torch.linalg.det(mirrored_too[:, :2, :2]) < 0).float().mean()) < 0.55


def test_sixteen_bits_elsewhere_move_no_pixel() -> None:
    results = []
    for fast in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            results.append(augment(cornered().repeat(6, 1, 1, 1), rotation=20, mirrored=True))
    assert torch.equal(*results)


def test_mirroring_moves_left_to_right_and_never_up_to_down() -> None:
    torch.manual_seed(2)
    changed = augment(cornered().repeat(200, 1, 1, 1), rotation=20, mirrored=True).mean(dim=3)
    left, right = changed[:, 4:12, 2:10].mean(dim=(1, 2)), changed[:, 4:12, -10:-2].mean(dim=(1, 2))
    below = changed[:, -6:, :].mean(dim=(1, 2))
    assert 60 < int((left > right).sum()) < 140
    assert int((torch.maximum(left, right) > below).sum()) >= 190  # but for patches that cover
    torch.manual_seed(2)
    unmirrored = augment(cornered().repeat(200, 1, 1, 1), rotation=20, mirrored=False).mean(dim=3)
    assert int((unmirrored[:, 4:12, 2:10].mean(dim=(1, 2)) > unmirrored[:, 4:12, -10:-2].mean(dim=(1, 2))).sum()) >= 190
