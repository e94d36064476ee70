"""The renderer of synthetic hand pictures."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fingerspell.alphabet import LETTERS
from fingerspell.errors import RunError
from fingerspell.rendering import render_blank, render_dataset, render_letter
from fingerspell.rendering.body import Body, flesh_out
from fingerspell.rendering.hand import (
    INDEX_MCP,
    LITTLE_MCP,
    MIDDLE_MCP,
    RING_MCP,
    THUMB_CMC,
    Finger,
    Skeleton,
    Thumb,
    draw_proportions,
    forward_kinematics,
    mean_proportions,
    rotation,
)
from fingerspell.rendering.poses import POSES, draw_pose
from fingerspell.rendering.raster import rasterise
from fingerspell.rendering.scene import View, draw_hand, draw_view, project
from fingerspell.rendering.shading import MONK_SKIN_TONES, draw_palette

if TYPE_CHECKING:
    from pathlib import Path

angles = st.floats(-30, 120)
thumbs = st.builds(Thumb, angles, angles, angles, angles, angles)
fingers = st.builds(Finger, angles, angles, angles, angles)
seeds = st.integers(0, 2**32 - 1)


def canonical(letter: str) -> Skeleton:
    pose = POSES[letter]
    skeleton = forward_kinematics(pose.thumb, pose.fingers, mean_proportions(), wrist=pose.wrist)
    return skeleton.transformed(pose.orientation)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}


# -- skeleton ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(thumbs, st.tuples(fingers, fingers, fingers, fingers), seeds)
def test_forward_kinematics_keeps_bone_lengths(
    thumb: Thumb, four: tuple[Finger, Finger, Finger, Finger], seed: int
) -> None:
    proportions = draw_proportions(np.random.default_rng(seed))
    joints = forward_kinematics(thumb, four, proportions).joints
    lengths = np.linalg.norm(np.diff(joints[1:].reshape(5, 4, 3), axis=1), axis=-1)
    np.testing.assert_allclose(lengths, proportions.bones, rtol=1e-9)


def test_flexion_bends_towards_the_palm_and_spread_towards_the_thumb() -> None:
    straight, bent, spread = Finger(0, 0, 0), Finger(90, 0, 0), Finger(0, 0, 0, spread=20)
    thumb = POSES["B"].thumb
    joints = forward_kinematics(thumb, (straight, bent, spread, straight), mean_proportions()).joints
    bones = [joints[base + 3] - joints[base] for base in (INDEX_MCP, MIDDLE_MCP, RING_MCP)]
    directions = [bone / np.linalg.norm(bone) for bone in bones]
    np.testing.assert_allclose(directions[0], (0, 1, 0), atol=1e-9)
    np.testing.assert_allclose(directions[1], (0, 0, 1), atol=1e-9)
    assert directions[2][0] == pytest.approx(np.sin(np.radians(20)))


def test_people_differ_but_within_bounds() -> None:
    mean = mean_proportions()
    people = [draw_proportions(np.random.default_rng(seed)) for seed in range(50)]
    middle = np.array([person.bones[2].sum() / mean.bones[2].sum() for person in people])
    assert middle.std() > 0.02
    assert ((middle > 0.8) & (middle < 1.2)).all()


def test_rotation_is_right_handed() -> None:
    np.testing.assert_allclose(rotation(2, 90) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(rotation(0, 90) @ (0, 1, 0), (0, 0, 1), atol=1e-12)


# -- poses ------------------------------------------------------------------------------------------------------------


def test_every_letter_has_a_pose_of_its_own() -> None:
    assert set(POSES) == set(LETTERS)
    assert len(set(POSES.values())) == len(LETTERS)


@pytest.mark.parametrize(("first", "second"), [("K", "P"), ("G", "Q"), ("I", "J")])
def test_same_handshape_in_another_orientation(first: str, second: str) -> None:
    one, other = POSES[first], POSES[second]
    assert (one.thumb, one.fingers) == (other.thumb, other.fingers)
    cosine = (np.trace(one.orientation.T @ other.orientation) - 1) / 2
    assert np.degrees(np.arccos(cosine)) > 60


def thumb_tip_among_fingers(letter: str) -> int:
    """How many fingers' middle joints stand on the thumb's side of the thumb's tip."""
    skeleton = canonical(letter)
    middle_joints = skeleton.joints[[INDEX_MCP + 1, MIDDLE_MCP + 1, RING_MCP + 1, LITTLE_MCP + 1], 0]
    return int((middle_joints > skeleton.joints[THUMB_CMC + 3, 0]).sum())


@pytest.mark.parametrize(("letter", "fingers_over_thumb"), [("A", 0), ("T", 1), ("N", 2), ("M", 3)])
def test_fists_are_told_apart_by_the_thumb(letter: str, fingers_over_thumb: int) -> None:
    assert thumb_tip_among_fingers(letter) == fingers_over_thumb


def test_s_has_the_thumb_before_the_fingers_and_e_below_the_tips() -> None:
    tip = THUMB_CMC + 3
    s, e = canonical("S").joints, canonical("E").joints
    assert s[tip, 2] > s[[MIDDLE_MCP + 1, MIDDLE_MCP + 2], 2].max()
    assert e[tip, 1] < e[[INDEX_MCP + 3, MIDDLE_MCP + 3, RING_MCP + 3], 1].min()


def test_u_v_and_r_differ_in_the_spread_of_index_and_middle_finger() -> None:
    def gap(letter: str) -> float:
        joints = canonical(letter).joints
        return float(joints[INDEX_MCP + 3, 0] - joints[MIDDLE_MCP + 3, 0])

    assert gap("V") > gap("U") + 15
    assert gap("R") < -5  # crossed


def test_g_and_h_point_sideways_and_p_and_q_down() -> None:
    for letter in "GH":
        across, up = (canonical(letter).joints[INDEX_MCP + 3] - canonical(letter).joints[INDEX_MCP])[:2]
        assert abs(across) > 3 * abs(up)
    for letter in "PQ":
        joints = canonical(letter).joints
        assert joints[INDEX_MCP + 3, 1] < joints[INDEX_MCP, 1] - 15


@pytest.mark.parametrize(("letter", "touching"), [("F", INDEX_MCP), ("O", MIDDLE_MCP), ("D", MIDDLE_MCP)])
def test_round_letters_close_and_c_stays_open(letter: str, touching: int) -> None:
    def gap(name: str) -> float:
        joints = canonical(name).joints
        return float(np.linalg.norm(joints[THUMB_CMC + 3] - joints[touching + 3]))

    assert gap(letter) < 20  # mm: two fingertips' radii are 16
    assert gap("C") > 30


def test_people_sign_a_letter_alike_but_not_the_same() -> None:
    drawn = [draw_pose("V", np.random.default_rng(seed)) for seed in range(40)]
    flexions = np.array([pose.index.mcp for pose in drawn])
    assert len(set(drawn)) == len(drawn)
    assert np.abs(flexions - POSES["V"].index.mcp).max() <= 14  # two deviations of both jitters


# -- picture ----------------------------------------------------------------------------------------------------------


def ball(height: float, part: int) -> Body:
    """A ball of radius 10 in the middle of 64 x 64 pixels."""
    return Body(
        ends=np.array([[[32.0, 32.0, height], [32.0, 32.0, height + 0.5]]]),
        radii=np.array([[10.0, 10.0]]),
        dorsal=np.array([[0.0, 0.0, 1.0]]),
        part=np.array([part]),
        nail=np.array([False]),
    )


def test_a_ball_has_the_area_and_the_normals_of_a_ball() -> None:
    surface = rasterise(ball(0, part=3), 64, blend=1)
    assert surface.mask.sum() == pytest.approx(np.pi * 100, rel=0.03)
    np.testing.assert_allclose(surface.normal[:, 32, 32], (0.05, 0.05, 1), atol=0.01)
    assert surface.normal[0, 32, 40] == pytest.approx(0.85, abs=0.01)  # 8.5 of 10 pixels from the middle
    assert surface.height[32, 32] == pytest.approx(10.5, abs=0.1)
    np.testing.assert_allclose(np.linalg.norm(surface.normal[:, surface.mask], axis=0), 1, atol=1e-4)


def test_the_nearer_part_hides_the_farther() -> None:
    near, far = ball(30, part=2), ball(0, part=5)
    both = Body(*(np.concatenate((getattr(near, f), getattr(far, f))) for f in near.__dataclass_fields__))
    assert set(np.unique(rasterise(both, 64, blend=1).part)) == {-1, 2}


@pytest.mark.parametrize("letter", LETTERS)
def test_hand_is_in_the_picture(letter: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        surface = draw_hand(letter, rng, draw_view(rng), 96)
        assert 0.05 < surface.mask.mean() < 0.6
        digits = set(np.unique(surface.part[surface.part >= 2]).tolist())
        assert len(digits) >= 3  # of five: those behind may hide, as the closed fingers of H do


def test_every_fingertip_lies_inside_the_picture() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view = draw_view(rng)
        skeleton = canonical(LETTERS[seed % 26]).transformed(view.turn)
        body = flesh_out(skeleton, mean_proportions())
        seen = project(body, skeleton.joints, view, 100)
        digits = seen.ends[seen.part >= 2][..., :2]
        # A stretched hand seen from nearby can outgrow the picture by a little, never by much.
        assert ((digits > -8) & (digits < 108)).all()


def test_mirrored_view_shows_the_left_hand() -> None:
    def thumb_minus_little(turn: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
        view = View(turn, 650.0, 0.8, np.zeros(2))
        part = draw_hand("L", np.random.default_rng(0), view, 96).part
        return float(np.nonzero(part == 2)[1].mean() - np.nonzero(part == 6)[1].mean())

    assert thumb_minus_little(np.eye(3)) > 10
    assert thumb_minus_little(np.diag((-1.0, 1.0, 1.0))) < -10


def test_some_hands_are_left_and_views_stay_bounded() -> None:
    views = [draw_view(np.random.default_rng(seed)) for seed in range(300)]
    left = [np.linalg.det(view.turn) < 0 for view in views]
    assert 0.04 < np.mean(left) < 0.18
    upright = np.array([view.turn[1, 1] for view in views])
    assert upright.min() > np.cos(np.radians(30))


def test_skin_tones_run_evenly_from_very_light_to_very_dark() -> None:
    backs = np.array([draw_palette(np.random.default_rng(seed)).back.mean() for seed in range(300)])
    lightest, darkest = (
        (np.array(tuple(bytes.fromhex(tone))) / 255).mean() ** 2 for tone in (MONK_SKIN_TONES[0], MONK_SKIN_TONES[-1])
    )
    assert backs.max() > 0.85 * lightest
    assert backs.min() < 1.5 * darkest
    counts, _ = np.histogram(np.sqrt(backs), bins=3, range=(0, 1))
    assert counts.min() > 300 / 10


def test_pictures_are_bytes_and_differ_between_people() -> None:
    one = render_letter("A", np.random.default_rng(1), 48)
    other = render_letter("A", np.random.default_rng(2), 48)
    empty = render_blank(np.random.default_rng(1), 48)
    assert one.shape == other.shape == empty.shape == (48, 48, 3)
    assert one.dtype == empty.dtype == np.uint8
    assert (one != other).mean() > 0.5


# -- data set ---------------------------------------------------------------------------------------------------------


def test_layout_and_names(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    written = render_dataset(
        tmp_path, train_per_letter=1, test_per_letter=0, size=16, on_progress=lambda *step: told.append(step)
    )
    assert written == 27
    assert told == [(step, 27) for step in range(1, 28)]
    paths = list(tmp_path.rglob("*.png"))
    assert {path.parent.relative_to(tmp_path).as_posix() for path in paths} == {
        f"Train_Alphabet/{label}" for label in (*LETTERS, "Blank")
    }
    assert all(path.suffix == ".png" and uuid.UUID(path.stem).version == 4 for path in paths)
    with Image.open(paths[0]) as image:
        assert (image.mode, image.size) == ("RGB", (16, 16))


def test_same_seed_same_bytes_and_more_pictures_extend_the_set(tmp_path: Path) -> None:
    small, large, other = tmp_path / "small", tmp_path / "large", tmp_path / "other"
    render_dataset(small, train_per_letter=1, test_per_letter=0, size=16, blank=False)
    # 81 pictures: enough for the pool of processes, which must draw the same ones.
    render_dataset(large, train_per_letter=2, test_per_letter=1, size=16)
    render_dataset(other, train_per_letter=1, test_per_letter=0, size=16, blank=False, seed=1)
    assert files(small).items() < files(large).items()
    assert not files(small).keys() & files(other).keys()
    assert len(set(files(large).values())) == 81


def test_resume_leaves_existing_pictures_alone(tmp_path: Path) -> None:
    render_dataset(tmp_path, train_per_letter=1, test_per_letter=0, size=16)
    whole = files(tmp_path)
    lost, *kept = sorted(tmp_path.rglob("*.png"))
    lost.unlink()
    (lost.parent / f".{lost.name}.x1").write_bytes(b"half a picture")  # what a killed run leaves
    times = [path.stat().st_mtime_ns for path in kept]
    assert render_dataset(tmp_path, train_per_letter=1, test_per_letter=0, size=16) == 1
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert files(tmp_path) == whole


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ("notes.txt", "holds 'notes.txt'; expected only the folders Train_Alphabet and Test_Alphabet"),
        ("Train_Alphabet/AA/x.png", "holds 'AA'; expected only folders A to Z and Blank"),
        ("Train_Alphabet/A/x.png", "x.png is no PNG picture; expected 16x16"),
    ],
)
def test_foreign_folder_is_refused(tmp_path: Path, foreign: str, message: str) -> None:
    path = tmp_path / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(RunError, match=re.escape(message)):
        render_dataset(tmp_path, train_per_letter=1, test_per_letter=1, size=16)
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(("size", "seed"), [(24, 0), (16, 3)])
def test_another_seed_or_size_is_not_mixed_in(tmp_path: Path, size: int, seed: int) -> None:
    render_dataset(tmp_path, train_per_letter=1, test_per_letter=0, size=16, seed=0)
    with pytest.raises(RunError, match="16x16, fingerspell renderer 1, seed 0; expected"):
        render_dataset(tmp_path, train_per_letter=1, test_per_letter=0, size=size, seed=seed)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        render_dataset(tmp_path / "out", train_per_letter=1, test_per_letter=0)
