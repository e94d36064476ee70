from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fingerspell import scenes as module
from fingerspell.hands import POINTS
from fingerspell.reader import ANSWERS, MARGIN, VIEW
from fingerspell.scenes import Hands, scenes, turned

SIDE, NONE = 128, ANSWERS - 1


def hand_points(count: int) -> Tensor:
    """Points around the middle of the picture, inside it."""
    return torch.rand(count, POINTS, 3, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.3


def some_hands(count: int = 16, pixels: Tensor | None = None) -> Hands:
    return Hands(
        torch.full((count, 3, SIDE, SIDE), 0.5) if pixels is None else pixels,
        hand_points(count),
        (torch.arange(count) % 2).float(),
        torch.ones(count),
        torch.arange(count) % 26,
        torch.ones(count),
    )


def some_backgrounds() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def dots(points: Tensor, which: int) -> Tensor:
    """Black pictures with a soft white dot at one point of each."""
    cells = (torch.arange(SIDE) + 0.5) / SIDE
    x, y = points[:, which, 0, None, None], points[:, which, 1, None, None]
    light = torch.exp(-((cells[None, None] - x) ** 2 + (cells[None, :, None] - y) ** 2) / 0.02**2)
    return light[:, None].expand(-1, 3, -1, -1)


def brightest(pixels: Tensor) -> Tensor:
    """Middle of the light of views (N, 3, 96, 96), in shares of the side."""
    light, cells = pixels.mean(1), (torch.arange(VIEW) + 0.5) / VIEW
    total = light.sum((1, 2))
    return torch.stack([(light.sum(1) * cells).sum(1), (light.sum(2) * cells).sum(1)], dim=1) / total[:, None]


@pytest.mark.parametrize("far", [False, True])
def test_points_move_with_the_pixels(far: bool) -> None:
    torch.manual_seed(0)
    points = hand_points(16)
    which = int((points[:, :, :2] - 0.5).abs().amax((0, 2)).argmin())  # the one that no view cuts off
    seen, _ = module._framed(some_hands(pixels=dots(points, which)), torch.full((16,), far))
    expected = seen.points[:, which, :2]
    inside = ((expected > 0.1) & (expected < 0.9)).all(1)
    assert inside.sum() >= 8
    assert (brightest(seen.pixels) - expected)[inside].abs().max() < 0.02


def test_points_of_whole_scenes_are_where_the_pixels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("_EMPTY", "_COVERED", "_SWAPPED", "_PASTED"):
        monkeypatch.setattr(module, share, 0.0)
    torch.manual_seed(0)
    points = hand_points(16)
    which = int((points[:, :, :2] - 0.5).abs().amax((0, 2)).argmin())
    seen, _ = scenes(some_hands(pixels=dots(points, which)), some_backgrounds(), NONE)
    expected = seen.points[:, which, :2]
    inside = ((expected > 0.1) & (expected < 0.9)).all(1)
    light = seen.pixels.mean(1)
    bright = torch.where(light > 0.6 * light.amax((1, 2), keepdim=True), light, torch.zeros_like(light))
    assert (brightest(bright[:, None]) - expected)[inside].abs().max() < 0.06


def test_squeezed_views_are_up_to_twice_as_wide_or_as_tall(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TURN", "_STRETCH", "_SHEAR"):
        monkeypatch.setattr(module, name, 0.0)
    before = some_hands(64)

    def widths(points: Tensor) -> Tensor:
        """Of the hands, in their heights."""
        size = points[:, :, :2].amax(1) - points[:, :, :2].amin(1)
        return size[:, 0] / size[:, 1]

    for share in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        seen, _ = module._framed(before, torch.zeros(64, dtype=torch.bool), share)
        wider = widths(seen.points) / widths(before.points)
        changed = (wider - 1).abs() > 1e-3
        assert changed.float().mean() == pytest.approx(share, abs=0.15)
        assert wider.amin() > 0.499
        assert wider.amax() < 2.001
    assert wider.amin() < 0.6
    assert wider.amax() > 1.7


def test_mirrored_hands_change_their_side() -> None:
    torch.manual_seed(1)
    before = some_hands(64)
    seen, _ = module._framed(before, torch.zeros(64, dtype=torch.bool))

    def way_round(points: Tensor) -> Tensor:
        first, second = points[:, 5, :2] - points[:, 0, :2], points[:, 17, :2] - points[:, 0, :2]
        return (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sign()

    flipped = way_round(before.points) != way_round(seen.points)
    assert 16 < flipped.sum() < 48
    assert torch.equal(seen.right != before.right, flipped)


def test_empty_views_answer_no_letter_and_show_no_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EMPTY", 1.0)
    views = []
    for pixels in (torch.zeros(16, 3, SIDE, SIDE), torch.ones(16, 3, SIDE, SIDE)):
        torch.manual_seed(2)
        seen, far = scenes(some_hands(pixels=pixels), some_backgrounds(), NONE)
        assert (seen.letters == NONE).all()
        assert not seen.shown.any()
        assert not seen.trust.any()
        assert not far.any()
        views.append(seen.pixels)
    assert torch.equal(*views)  # whatever the hand


def test_scenes_repeat_themselves_change_nothing_given_and_stay_in_range() -> None:
    given, kept = some_hands(), some_hands()
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(scenes(given, some_backgrounds(), NONE))
    (one, far), (other, same_far) = results
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(far, same_far)
    assert one.pixels.shape == (16, 3, VIEW, VIEW)
    assert one.pixels.min() >= 0
    assert one.pixels.max() <= 1
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(vars(given).values(), vars(kept).values(), strict=True)
    )


def test_unknown_hands_are_seen_whole_and_stay_unknown() -> None:
    torch.manual_seed(6)
    hands = some_hands()
    hands.trust.zero_()
    seen, far = scenes(hands, some_backgrounds(), NONE)
    assert not far.any()
    assert not seen.trust.any()


def test_near_views_hold_the_box_of_the_points() -> None:
    torch.manual_seed(7)
    seen, _ = module._framed(some_hands(64), torch.zeros(64, dtype=torch.bool))
    box = (seen.points[:, :, :2].amax(1) - seen.points[:, :, :2].amin(1)).amax(1)
    assert 0.5 / MARGIN < box.mean() < 1.5 / MARGIN


def test_turned_hands_keep_their_size() -> None:
    torch.manual_seed(8)
    hands = torch.randn(50, POINTS, 3)
    after = turned(hands)
    torch.testing.assert_close(after.norm(dim=2).mean(), hands.norm(dim=2).mean(), rtol=0.02, atol=0)
    assert (after - hands).norm(dim=2).mean() > 0.1
