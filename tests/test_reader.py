from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from fingerspell import reader
from fingerspell.backbones import EMBEDDED, Backbone, Network, load_backbone, untaught_reader
from fingerspell.engines import OpenVinoEngine
from fingerspell.errors import BackboneError
from fingerspell.graphs import backbone_graph, int8_graph
from fingerspell.hands import POINTS, READER
from fingerspell.reader import SIZE, VIEW, Reader, normalised


@pytest.fixture(scope="module")
def untaught() -> Backbone:
    return untaught_reader()


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def layers(backbone: Backbone) -> Reader:
    found = backbone.network.layers
    assert isinstance(found, Reader)
    return found


def test_untaught_reader_is_the_same_every_time(untaught: Backbone) -> None:
    again = untaught_reader()
    assert again.identity == untaught.identity
    preprocessing = again.preprocessing
    assert (preprocessing.size, preprocessing.interpolation, preprocessing.channels) == (256, "bilinear", "rgb")
    assert (preprocessing.mean, preprocessing.std) == ((127.0,) * 3, (128.0,) * 3)
    assert again.dimension == Reader.BOX.stop == 94


def test_answers_are_probabilities_points_and_a_box(untaught: Backbone) -> None:
    with torch.inference_mode():
        answers = untaught.network(pictures(2))
    assert answers.shape == (2, 94)
    torch.testing.assert_close(answers[:, Reader.LETTERS].exp().sum(1), torch.ones(2))
    assert torch.isfinite(answers).all()
    facts = answers[:, [Reader.PRESENT, Reader.RIGHT]]
    assert ((facts > 0) & (facts < 1)).all()
    assert (answers[:, Reader.BOX][:, 2] > 0).all()


@pytest.mark.parametrize("side", [VIEW, reader.FINE_VIEW])
def test_a_look_has_the_shapes_it_names_at_every_side(untaught: Backbone, side: int) -> None:
    with torch.inference_mode():
        look = layers(untaught).eye(torch.zeros(2, 3, side, side))
    assert look.points.shape == (2, POINTS, 3)
    assert look.present.shape == look.right.shape == (2,)
    assert look.letters.shape == look.by_points.shape == (2, reader.ANSWERS)
    cells = side // reader.CELL
    assert look.middles.shape == look.sizes.shape == (2, cells, cells)
    assert look.heatmaps.shape == (2, POINTS, cells, cells)


def test_everything_but_the_first_stages_learns(untaught: Backbone) -> None:
    eye = untaught_reader().network.layers.eye.learning().train()  # type: ignore[union-attr,operator]
    still = {name for name, p in eye.named_parameters() if not p.requires_grad}
    first = ("trunk.conv_stem", "trunk.bn1", "trunk.blocks.0", "trunk.blocks.1")
    assert still == {name for name, _ in eye.named_parameters() if name.startswith(first)}
    norms = {name: part for name, part in eye.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    assert {name for name, part in norms.items() if not part.training} == {n for n in norms if n.startswith(first)}


def test_points_seen_in_a_shifted_box_are_mapped_back() -> None:
    dots = torch.tensor([[100, 60], [140, 90], [120, 130]])
    box = reader._Box(torch.tensor([[0.45, 0.4]]), torch.tensor([0.5]))
    for x, y in dots.tolist():
        picture = torch.zeros(1, 3, SIZE, SIZE)
        picture[:, :, y : y + 2, x : x + 2] = 1
        light = reader._view(picture, box, VIEW)[0, 0]
        cells = (torch.arange(VIEW) + 0.5) / VIEW
        seen = torch.stack([(light.sum(0) * cells).sum(), (light.sum(1) * cells).sum()]) / light.sum()
        point = torch.cat([seen, torch.tensor([0.2])]).expand(1, POINTS, 3)
        back = box.outward(point)[0, 0]
        expected = torch.tensor([(x + 1) / SIZE, (y + 1) / SIZE, 0.1])
        torch.testing.assert_close(back, expected, atol=1e-3, rtol=0)


def test_beyond_the_picture_its_edge_is_repeated_and_the_whole_is_the_whole() -> None:
    picture = torch.full((1, 3, SIZE, SIZE), 0.7)
    view = reader._view(picture, reader._Box(torch.tensor([[0.0, 1.0]]), torch.tensor([1.0])), VIEW)
    torch.testing.assert_close(view, torch.full_like(view, 0.7))


def test_the_fine_view_of_the_whole_is_a_mean_of_pixels() -> None:
    picture = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    seen: list[torch.Tensor] = []
    taught = layers(untaught_reader())
    taught.eye.register_forward_pre_hook(lambda _, views: seen.append(views[0]))
    with torch.inference_mode():
        taught(picture)
    whole = reader._Box(torch.tensor([[0.5, 0.5]]), torch.ones(1))
    assert [view.shape[2] for view in seen] == [VIEW, reader.FINE_VIEW, reader.FINE_VIEW, VIEW]
    torch.testing.assert_close(seen[1], reader._view(picture, whole, reader.FINE_VIEW), atol=1e-5, rtol=1e-5)


def test_normalised_hands_know_no_place_and_no_size_but_their_side() -> None:
    hands = torch.rand(3, POINTS, 3, generator=torch.Generator().manual_seed(1))
    expected = normalised(hands)
    torch.testing.assert_close(normalised(hands * 0.3 + torch.tensor([0.2, -0.1, 0.4])), expected, atol=1e-5, rtol=1e-4)
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(normalised(hands * mirror), expected * mirror)


@pytest.mark.parametrize(("side", "kernel"), [(3, 5), (2, 5), (2, 3), (6, 5)])
def test_small_maps_are_convolved_and_learnt_from_as_torch_does_it(side: int, kernel: int) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=8, bias=False)
    ours = reader._Depthwise(theirs).train()
    maps = torch.randn(4, 8, side, side).to(memory_format=torch.channels_last).requires_grad_()
    answers = [layer(maps) for layer in (theirs, ours)]
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(answers[0])
    expected, found = (torch.autograd.grad((answer * weight).sum(), (maps, theirs.weight)) for answer in answers)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_folded_batch_norm_answers_as_before() -> None:
    trunk = load_backbone(EMBEDDED).network.layers
    views = torch.randn(2, 3, VIEW, VIEW, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        before = trunk(views)
    eye = reader.HandNetwork(trunk).folded()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in eye.modules())
    with torch.inference_mode():
        _, after = eye._features(views)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("cells", [12, 20])
def test_a_hand_is_placed_where_its_middle_is_likeliest(cells: int) -> None:
    middles, sizes = torch.zeros(3, cells, cells), torch.full((3, cells, cells), 1.0)
    middles[0, 4, 7], middles[1, 4, 7], middles[1, 4, 8], middles[2, 0, 0] = 30.0, 30.0, 30.0, 30.0
    middles[0, 10, 2] = 29.0  # another likely place is not mixed in
    sizes[:, 4, 7:9] = torch.tensor(3.0).log()
    present = torch.tensor([1.0, 1.0, -1.0])
    look = reader.Look(torch.zeros(3, POINTS, 3), present, present, present, present, middles, sizes, middles)
    box = reader._placed(look, reader._Box(torch.tensor([[0.5, 0.5]]).expand(3, 2), torch.ones(3)))
    expected = torch.tensor([[7.5 / cells, 4.5 / cells], [8 / cells, 4.5 / cells], [0.5, 0.5]])
    torch.testing.assert_close(box.middle, expected)
    torch.testing.assert_close(box.side, torch.tensor([3 / cells * reader.MARGIN, 3 / cells * reader.MARGIN, 1]))
    tiny = reader._placed(look, reader._Box(torch.full((3, 2), 0.5), torch.full((3,), 0.01)))
    assert tiny.side.tolist()[:2] == pytest.approx([0.1, 0.1])
    inner = reader._placed(look, reader._Box(torch.tensor([[0.6, 0.4]]).expand(3, 2), torch.full((3,), 0.5)))
    torch.testing.assert_close(inner.middle[0], (expected[0] - 0.5) / 2 + torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(inner.middle[2], torch.tensor([0.6, 0.4]))  # without a hand the box stays where it is
    assert inner.side[2] == 0.5


def test_no_letter_makes_all_letters_equally_likely() -> None:
    logits = torch.zeros(1, reader.ANSWERS)
    logits[:, 0], logits[:, -1] = 5.0, 50.0
    none = torch.zeros(1)
    answer = reader._answer(reader.Look(torch.zeros(1, POINTS, 3), none, none, logits, logits, none, none, none))
    letters = reader._agreed([answer, answer], [torch.ones(1), torch.ones(1)]).exp()
    torch.testing.assert_close(letters, torch.full_like(letters, 1 / 26))


@pytest.mark.parametrize(("hand", "heard"), [(0.3, 0.0), (0.85, 0.5), (1.2, 1.0)])
def test_the_whole_picture_is_read_as_far_as_the_hand_fills_it(hand: float, heard: float) -> None:
    class Eye(torch.nn.Module):
        looks = 0

        def forward(self, views: torch.Tensor) -> reader.Look:
            cells = views.shape[2] // reader.CELL
            letters = torch.zeros(1, reader.ANSWERS)
            letters[:, self.looks] = 50.0  # of each look another
            self.looks += 1
            some, maps = torch.ones(1), torch.zeros(1, cells, cells)
            sizes = maps + float(np.log(hand / reader.MARGIN * cells))
            return reader.Look(torch.zeros(1, POINTS, 3), some, some, letters, letters, maps, sizes, maps)

    eye = Eye()
    letters = Reader(eye)(torch.zeros(1, 3, SIZE, SIZE))[0, Reader.LETTERS].exp()  # type: ignore[arg-type]
    assert eye.looks == 4
    assert letters[:4].tolist() == pytest.approx([heard / (heard + 2), 0, 1 / (heard + 2), 1 / (heard + 2)], abs=1e-6)


def test_the_view_has_more_of_a_say_than_the_points() -> None:
    none = torch.zeros(1)
    view, points = torch.zeros(2, 1, reader.ANSWERS)
    view[0, 0] = points[0, 1] = 4
    answer = reader._answer(reader.Look(torch.zeros(1, POINTS, 3), none, none, view, points, none, none, none)).log()
    assert float(answer[0, 0] - answer[0, 2]) == pytest.approx(3)
    assert float(answer[0, 1] - answer[0, 2]) == pytest.approx(1)


def half_large() -> Network:
    """Untaught reader that surely sees a hand, where it is placed, and so large that it fills half of ``pictures``."""
    network = untaught_reader().network
    eye = layers(Backbone.of(READER, network)).eye
    with torch.no_grad():
        eye.facts.bias[0] = 20.0
        eye.get_parameter("box.3.bias")[1] += 1.57
    return network


def large_sides(network: Network) -> torch.Tensor:
    """Sides of the boxes of 17 ``pictures`` in the coarse view."""
    whole = reader._Box(torch.full((1, 2), 0.5), torch.ones(1))
    views = reader._view((pictures(17).permute(0, 3, 1, 2) - 127.0) / 128, whole, VIEW)
    with torch.inference_mode():
        return reader._placed(layers(Backbone.of(READER, network)).eye(views), whole).side


def test_graph_agrees_with_torch_and_places_the_hand_of_each_picture_of_a_batch(tmp_path: Path) -> None:
    network, seen = half_large(), pictures(17)
    backbone = Backbone.of(READER, network)
    graph = backbone_graph(backbone, tmp_path)
    with torch.inference_mode():
        expected = network(seen).numpy()
    assert 4 < int((large_sides(network) <= reader._FILLS).sum()) < 13  # for which alone the graph takes the fine view
    assert np.ptp(expected[:, -3:-1], axis=0).min() > 0.05  # the hands are not all in one place
    session = onnxruntime.InferenceSession(graph)
    for batch in (*np.split(np.arange(17), 17), np.arange(3)):
        found = session.run(None, {session.get_inputs()[0].name: seen[batch].numpy()})[0]
        np.testing.assert_allclose(found, expected[batch], atol=2e-3)
    engine = OpenVinoEngine(backbone, "float32", graph)
    found = np.concatenate([vectors for _, vectors in engine.stream(enumerate(seen.numpy()))])
    np.testing.assert_allclose(found[:, -3:], expected[:, -3:], atol=1e-3)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert int8_graph(backbone, tmp_path).read_bytes() == graph.read_bytes()  # not all pictures show its ranges


def test_in_torch_a_vector_does_not_depend_on_its_neighbours() -> None:
    network = half_large()
    small = large_sides(network) <= reader._FILLS
    few, many = (pictures(17)[torch.cat([small.nonzero()[:1, 0], of.nonzero()[:, 0]])][:5] for of in (~small, small))
    with torch.inference_mode():
        torch.testing.assert_close(network(few)[0], network(many)[0], rtol=0, atol=0)


def test_an_untaught_reader_is_no_backbone_yet_and_a_taught_one_is(untaught: Backbone, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has not been taught"):
        load_backbone(READER)
    file = tmp_path / "taught.safetensors"
    save_file({key: value.contiguous() for key, value in untaught.network.layers.state_dict().items()}, file)
    assert load_backbone(READER, weights=file) == untaught
