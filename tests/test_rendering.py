"""The renderer of synthetic hand pictures."""

from __future__ import annotations

import csv
import re
import uuid
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fingerspell.alphabet import LETTERS
from fingerspell.errors import RunError
from fingerspell.rendering import render_blank, render_dataset, render_letter
from fingerspell.rendering.body import Body
from fingerspell.rendering.generate import TABLE
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
from fingerspell.rendering.poses import GESTURES, POSES, VARIANTS, draw_pose, draw_sign, moved
from fingerspell.rendering.raster import Surface, rasterise
from fingerspell.rendering.scene import BLANK, Scene, _posed, _surface, draw_scene, parameters, render, truth
from fingerspell.rendering.shading import MONK_SKIN_TONES, draw_looks, palette
from fingerspell.rendering.view import Frame, View, draw_view

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
    pose = POSES[letter]
    skeleton = forward_kinematics(pose.thumb, pose.fingers, mean_proportions())
    middle_joints = skeleton.joints[[INDEX_MCP + 1, MIDDLE_MCP + 1, RING_MCP + 1, LITTLE_MCP + 1], 0]
    return int((middle_joints > skeleton.joints[THUMB_CMC + 3, 0]).sum())


@pytest.mark.parametrize("letter", VARIANTS)
def test_letters_are_drawn_in_each_way_that_people_sign_them(letter: str) -> None:
    share, variant = VARIANTS[letter]
    drawn = [draw_sign(letter, 0.5, np.random.default_rng(seed)) for seed in range(400)]
    assert {*drawn} == {POSES[letter], variant}
    assert drawn.count(variant) / len(drawn) == pytest.approx(share, abs=0.08)
    assert all(finger == finger.limited() for finger in variant.fingers)


def test_a_standing_p_is_no_k_and_a_standing_g_is_no_q() -> None:
    for letter, other in (("P", "K"), ("G", "Q")):
        turn = POSES[other].orientation.T @ VARIANTS[letter][1].orientation
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) > 45  # further than a camera turns it
    assert VARIANTS["P"][1].middle.mcp - VARIANTS["P"][1].index.mcp > 25  # the thumb stands between, as in K


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
    drawn = [draw_pose(POSES["V"], np.random.default_rng(seed)) for seed in range(40)]
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
        jointed=np.array([False]),
    )


def test_a_ball_has_the_area_and_the_normals_of_a_ball() -> None:
    surface = rasterise(ball(0, part=3), (64, 64), blend=1)
    assert surface.mask.sum() == pytest.approx(np.pi * 100, rel=0.03)
    np.testing.assert_allclose(surface.normal[:, 32, 32], (0.05, 0.05, 1), atol=0.01)
    assert surface.normal[0, 32, 40] == pytest.approx(0.85, abs=0.01)  # 8.5 of 10 pixels from the middle
    assert surface.height[32, 32] == pytest.approx(10.5, abs=0.1)
    np.testing.assert_allclose(np.linalg.norm(surface.normal[:, surface.mask], axis=0), 1, atol=1e-4)


def test_the_nearer_part_hides_the_farther() -> None:
    near, far = ball(30, part=2), ball(0, part=5)
    both = Body(*(np.concatenate((getattr(near, f), getattr(far, f))) for f in near.__dataclass_fields__))
    assert set(np.unique(rasterise(both, (64, 64), blend=1).part)) == {-1, 2}


def surface_of(scene: Scene, size: int) -> Surface:
    """What the camera sees of the body, in the body's own window, two samples a pixel."""
    return _surface(*_posed(scene), size)[1]


@pytest.mark.parametrize("letter", LETTERS)
def test_hand_is_in_the_picture(letter: str) -> None:
    for seed in range(3):
        surface = surface_of(draw_scene(letter, np.random.default_rng(seed)), 96)
        assert 0.02 * 4 * 96**2 < surface.mask.sum() < 0.5 * 4 * 96**2
        digits = set(np.unique(surface.part[surface.part >= 2]).tolist())
        assert len(digits) >= 3  # of five: those behind may hide, as the closed fingers of H do


def test_every_joint_lies_inside_the_picture() -> None:
    for seed in range(60):
        known = truth(draw_scene(LETTERS[seed % 26], np.random.default_rng(seed)))
        assert known is not None
        assert ((known.seen[:, :2] > 0) & (known.seen[:, :2] < 1)).all()
        left, top, right, bottom = known.box
        assert ((known.seen[:, 0] > left) & (known.seen[:, 0] < right)).all()
        assert ((known.seen[:, 1] > top) & (known.seen[:, 1] < bottom)).all()


def test_a_camera_sees_near_things_larger_and_the_middle_in_the_middle() -> None:
    camera = Frame(distance=500, scale=0.005, middle=np.zeros(2))
    here, near = camera.seen(np.array([[10.0, 20.0, 0.0], [10.0, 20.0, 250.0]]))
    np.testing.assert_allclose(here, (0.55, 0.4, 0))
    np.testing.assert_allclose(near, (0.6, 0.3, 1.25))


STRAIGHT = View(0, 0, 0, left=False, distance=650, scale=0.5, shift_x=0, shift_y=0)


def test_the_truth_is_where_the_fingertips_are_drawn() -> None:
    """A tip's ball closes its finger: the hand is drawn there, and beyond the tip of a raised one there is none."""
    for seed in range(12):
        scene = replace(draw_scene("L", np.random.default_rng(seed)), view=STRAIGHT)
        known = truth(scene)
        assert known is not None
        body, framed = _posed(scene)
        window, surface = _surface(body, framed, 200)
        x, y = 2 * (known.seen[8, :2] * 200 - (window[1].start, window[0].start))
        beyond = round(float(scene.person.radii[1, 3] * framed.scale * 400)) + 4
        assert surface.part[round(y), round(x)] == 3
        assert surface.part[max(0, round(y) - beyond), round(x)] != 3


def test_mirrored_view_shows_the_left_hand() -> None:
    def thumb_minus_little(view: View) -> float:
        part = surface_of(replace(draw_scene("L", np.random.default_rng(0)), view=view), 96).part
        return float(np.nonzero(part == 2)[1].mean() - np.nonzero(part == 6)[1].mean())

    assert thumb_minus_little(STRAIGHT) > 10
    assert thumb_minus_little(replace(STRAIGHT, left=True)) < -10


def test_some_hands_are_left_and_views_stay_bounded() -> None:
    views = [draw_view(np.random.default_rng(seed)) for seed in range(300)]
    assert 0.12 < np.mean([view.left for view in views]) < 0.3
    assert all((np.linalg.det(view.turn) < 0) == view.left for view in views)
    upright = np.array([view.turn[1, 1] for view in views])
    assert upright.min() > np.cos(np.radians(35))


def test_joints_bend_no_further_than_they_can() -> None:
    for letter in LETTERS:
        for seed in range(10):
            for finger in draw_scene(letter, np.random.default_rng(seed)).pose.fingers:
                assert finger == finger.limited()


def test_moving_letters_are_frames_of_a_way_and_others_are_held() -> None:
    phases = [draw_scene("J", np.random.default_rng(seed)).phase for seed in range(60)]
    assert min(phases) < 0.1
    assert max(phases) > 0.9
    assert moved("J", 0).orientation == pytest.approx(POSES["I"].orientation)
    palm = [moved("J", phase).orientation[2, 2] for phase in (0.0, 0.5, 1.0)]
    assert palm == sorted(palm, reverse=True)  # it turns to the signer
    assert palm[-1] < 0 < palm[0]
    assert moved("Z", 0.3) != moved("Z", 0.6)
    assert {draw_scene("A", np.random.default_rng(seed)).phase for seed in range(9)} == {0.5}


@pytest.mark.parametrize("label", [*LETTERS, BLANK])
def test_arms_leave_the_picture(label: str) -> None:
    for seed in range(25):
        scene = draw_scene(label, np.random.default_rng(seed))
        if scene.shows == "nothing":
            continue
        body, framed = _posed(scene)
        arm = framed.project(body, 100)
        arm_ends = arm.ends[:3, :, :2] if scene.shows == "arm" else arm.ends[:3, 1:, :2]
        radii = arm.radii[:3] if scene.shows == "arm" else arm.radii[:3, 1:]
        beyond = np.maximum(-arm_ends, arm_ends - 100).max(-1)
        assert (beyond > -radii).all(), f"seed {seed}: an end of the arm is seen whole"


def test_blank_shows_no_letter() -> None:
    scenes = [draw_scene(BLANK, np.random.default_rng(seed)) for seed in range(200)]
    assert {scene.shows for scene in scenes} == {"nothing", "arm", *GESTURES}
    assert all((truth(scene) is None) == (scene.shows in {"nothing", "arm"}) for scene in scenes)
    arm = next(scene for scene in scenes if scene.shows == "arm")
    assert set(np.unique(surface_of(arm, 64).part)) <= {-1, 0, 1}
    assert surface_of(arm, 64).mask.any()


def test_everything_drawn_is_told() -> None:
    told = [
        parameters(draw_scene(label, np.random.default_rng(seed))) for label in ("A", "Z", BLANK) for seed in range(9)
    ]
    assert len({tuple(each) for each in told}) == 1  # the same names for all
    assert {each["lamps"] for each in told} == {1, 2, 3}
    assert all((each["phase"] == "") == (each["shows"] != "Z") for each in told)
    for each in told:
        lit = [number for number in (1, 2, 3) if each[f"lamp{number}_strength"] != ""]
        assert len(lit) == each["lamps"]


@pytest.mark.parametrize("change", [{"focus": 0.02}, {"motion": 0.05}, {"grain": 6.0}, {"quality": 20}])
def test_cameras_blur_and_compress(change: dict[str, Any]) -> None:
    scene = draw_scene("B", np.random.default_rng(0))
    sharp = replace(scene.camera, focus=0, motion=0, grain=0, colour_grain=0, quality=0)
    plain, changed = (
        render(replace(scene, camera=camera), 96).astype(int) for camera in (sharp, replace(sharp, **change))
    )
    assert 0.3 < np.abs(changed - plain).mean() < 25


def test_skin_tones_run_evenly_from_very_light_to_very_dark() -> None:
    backs = np.array([palette(draw_looks(np.random.default_rng(seed))).back.mean() for seed in range(300)])
    lightest, darkest = (
        (np.array(tuple(bytes.fromhex(tone))) / 255).mean() ** 2 for tone in (MONK_SKIN_TONES[0], MONK_SKIN_TONES[-1])
    )
    assert backs.max() > 0.8 * lightest
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
    told: list[tuple[str, int, int]] = []
    written = render_dataset(
        tmp_path, train_per_letter=1, test_per_letter=0, size=16, on_progress=lambda *step: told.append(step)
    )
    assert written == 27
    stages = ("Posing hands", "Drawing hands")
    assert told == [(stage, step, 27) for stage in stages for step in range(1, 28)]
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
    with pytest.raises(RunError, match="16x16, fingerspell renderer 4, seed 0; expected"):
        render_dataset(tmp_path, train_per_letter=1, test_per_letter=0, size=size, seed=seed)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        render_dataset(tmp_path / "out", train_per_letter=1, test_per_letter=0)


def rows_of(table: str) -> dict[str, dict[str, str]]:
    return {row["path"]: row for row in csv.DictReader(table.splitlines())}


def test_the_table_tells_the_truth_about_each_picture(tmp_path: Path) -> None:
    render_dataset(tmp_path / "set", train_per_letter=2, test_per_letter=1, size=16)
    rows = rows_of((tmp_path / "set" / TABLE).read_text())
    assert set(rows) == set(files(tmp_path / "set"))
    for path, row in rows.items():
        assert row["label"] == path.split("/")[1]
        unseen = row["shows"] in {"nothing", "arm"}
        assert all((row[name] == "") == unseen for name in ("side", "left", "seen8x", "mm8x"))
        if row["side"]:
            assert float(row["left"]) < float(row["seen8x"]) < float(row["right"])
            metacarpal = [float(row[f"mm9{axis}"]) for axis in "xyz"]
            assert 70 < np.linalg.norm(metacarpal) < 110
    # A smaller call afterwards leaves the rows of the larger one.
    render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16)
    assert rows_of((tmp_path / "set" / TABLE).read_text()) == rows


def test_a_zip_holds_what_the_folder_does(tmp_path: Path) -> None:
    for name in ("set", "set.zip"):
        render_dataset(tmp_path / name, train_per_letter=1, test_per_letter=1, size=16)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    assert inside == {**files(tmp_path / "set"), TABLE: (tmp_path / "set" / TABLE).read_bytes()}
    assert {path.name for path in tmp_path.iterdir()} == {"set", "set.png", "set.zip", "set.zip.png"}
    with pytest.raises(RunError, match="is there already"):
        render_dataset(tmp_path / "set.zip", train_per_letter=1, test_per_letter=1, size=16)


def test_a_killed_larger_call_leaves_no_picture_without_its_truth(tmp_path: Path) -> None:
    render_dataset(tmp_path / "set", train_per_letter=2, test_per_letter=0, size=16)
    lost = min((tmp_path / "set").rglob("*.png"))
    lost.unlink()  # as a kill before the last picture would
    render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16)
    rows = rows_of((tmp_path / "set" / TABLE).read_text())
    assert set(rows) == set(files(tmp_path / "set"))
    (tmp_path / "set").rename(tmp_path / ".set.zip.drawing")
    render_dataset(tmp_path / "set.zip", train_per_letter=1, test_per_letter=0, size=16)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:  # what was asked for, and no more
        assert len(archive.namelist()) == 28
        assert len(rows_of(archive.read(TABLE).decode())) == 27


def test_a_table_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / TABLE).write_text("name,score\nanna,3\n")
    with pytest.raises(RunError, match="is not the table of a set that this version drew"):
        render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16)
    assert (tmp_path / "set" / TABLE).read_text() == "name,score\nanna,3\n"


@pytest.mark.parametrize(("train", "size"), [(0, 16), (-1, 16), (1, 0)])
def test_numbers_out_of_range(train: int, size: int, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected at least one picture of a label"):
        render_dataset(tmp_path / "set", train_per_letter=train, test_per_letter=0, size=size)
    assert not (tmp_path / "set").exists()


def test_a_killed_zip_of_another_seed_is_named(tmp_path: Path) -> None:
    render_dataset(tmp_path / ".set.zip.drawing", train_per_letter=1, test_per_letter=0, size=16, seed=5)
    with pytest.raises(RunError, match="what a killed call left"):
        render_dataset(tmp_path / "set.zip", train_per_letter=1, test_per_letter=0, size=16)


def test_backgrounds_may_not_hold_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="lies among the backgrounds"):
        render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16, backgrounds=tmp_path)


def test_a_killed_zip_goes_on(tmp_path: Path) -> None:
    render_dataset(tmp_path / ".set.zip.drawing", train_per_letter=1, test_per_letter=0, size=16)  # what a kill leaves
    assert render_dataset(tmp_path / "set.zip", train_per_letter=1, test_per_letter=0, size=16) == 0
    assert (tmp_path / "set.zip").exists()
    assert not (tmp_path / ".set.zip.drawing").exists()


def test_backgrounds_of_the_user_stand_behind_the_hands(tmp_path: Path) -> None:
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    Image.new("RGB", (60, 40), (250, 0, 0)).save(rooms / "red.png")
    Image.new("RGB", (40, 60), (250, 0, 0)).save(rooms / "other.jpg")

    def draw(backgrounds: Path | None) -> int:
        return render_dataset(tmp_path / "set", train_per_letter=2, test_per_letter=0, size=32, backgrounds=backgrounds)

    assert draw(rooms) == 54
    rows = rows_of((tmp_path / "set" / TABLE).read_text())
    assert {row["background"] for row in rows.values()} == {"red.png", "other.jpg"}
    for path in rows:
        pixels = np.asarray(Image.open(tmp_path / "set" / path)).astype(int)
        assert np.median(pixels[..., 0] - pixels[..., 1]) > 60
    # The same rooms draw on, others are not mixed in.
    assert draw(rooms) == 0
    with pytest.raises(RunError, match=r"seed 0, backgrounds [0-9a-f]{16}; expected"):
        draw(None)


def test_bad_backgrounds(tmp_path: Path) -> None:
    def draw() -> None:
        render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16, backgrounds=tmp_path / "rooms")

    with pytest.raises(RunError, match="there is no such folder of backgrounds"):
        draw()
    (tmp_path / "rooms").mkdir()
    with pytest.raises(RunError, match="has no picture"):
        draw()
    (tmp_path / "rooms" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"a\.jpg cannot be read as a background"):
        draw()
    (tmp_path / "rooms" / "b").mkdir()
    (tmp_path / "rooms" / "b" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"two pictures named a\.jpg"):
        draw()
    assert not (tmp_path / "set").exists()


def test_a_file_in_the_sheets_way_is_left_alone(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "set.png")
    mine = (tmp_path / "set.png").read_bytes()
    with pytest.raises(RunError, match="in the way of the contact sheet"):
        render_dataset(tmp_path / "set", train_per_letter=1, test_per_letter=0, size=16)
    assert (tmp_path / "set.png").read_bytes() == mine
    assert not (tmp_path / "set").exists()
