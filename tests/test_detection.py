"""Detectors: the network, what it finds, and where each box came from."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detecting import LABELS, tiny_detector
from PIL import Image
from torch import Tensor
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import cbam
from cbam.attention import ATTENTION
from cbam.backbones import build
from cbam.cards.detector import is_detector, read_detector_card, write_detector_card
from cbam.cards.families import available, detectors
from cbam.detector import Detector, open_detector
from cbam.detectors import BODY, FCOS, OF, SIDES, Found
from cbam.detectors.fcos import FINEST
from cbam.errors import BadCard, BadOption, OptionClash, UnknownName
from cbam.explain.detection import (
    BOX_METHODS,
    Detected,
    Detection,
    DetectOptions,
    box_map,
    box_maps,
    counterparts,
    of_layers,
    overlap,
)
from cbam.explain.formulas import gradcam
from cbam.images.frame import Frame
from cbam.trace.cut import cut_at

pytest_plugins = ["detecting"]


@pytest.fixture(scope="module")
def model(tiny_detectors: Path) -> Detector:
    return cbam.load(tiny_detectors / "tiny-cbam-things")


def photo(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def network(classes: int = 2, finest: int = 16) -> FCOS:
    torch.manual_seed(0)
    body = build("resnet18", num_classes=3, width=16)
    found = FCOS(body, classes, channels=32, convs=1, finest=finest)
    torch.nn.init.normal_(found.head.classification_head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(found.head.regression_head.bbox_reg.weight, std=0.3)
    # Its own transform: images come normalised and in the right size.
    found.transform = GeneralizedRCNNTransform(64, 96, [0.0] * 3, [1.0] * 3)
    return found


@pytest.mark.parametrize("finest", FINEST)
def test_it_finds_what_torchvisions_own_forward_finds(finest: int):
    ours = network(finest=finest).eval().requires_grad_(False)
    ours.score_thresh, ours.nms_thresh, ours.detections_per_img = 0.1, 0.5, 30
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    (theirs,) = TorchvisionFCOS.forward(ours, [image])
    found = ours.found(ours(image[None])[0], 96, 64, score=0.1, iou=0.5, limit=30)
    assert len(theirs["boxes"]) > 5
    torch.testing.assert_close(found.boxes, theirs["boxes"])
    torch.testing.assert_close(found.scores, theirs["scores"])
    assert found.labels.tolist() == theirs["labels"].tolist()


def targets() -> list[dict[str, Tensor]]:
    return [
        {"boxes": torch.tensor([[4.0, 4, 40, 50]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def test_its_losses_are_torchvisions():
    ours = network().train()
    for module in ours.modules():  # a batch must not change what the next pass computes
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    theirs = TorchvisionFCOS.forward(ours, [*images], targets())
    mine = ours.losses(ours.outputs(ours.backbone.body.stages(images)[-2:]), targets(), 96, 64)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name])


def test_a_class_that_is_not_marked_in_a_photo_has_no_loss_there():
    ours = network()
    logits = torch.randn(2, 24 + 6, 2, requires_grad=True)
    rest = torch.rand(2, 30, 4), torch.randn(2, 30, 1)
    marked = torch.tensor([[True, True], [False, True]])
    losses = ours.losses((logits, *rest), targets(), 96, 64, marked)
    (gradient,) = torch.autograd.grad(losses["classification"], logits)
    assert (gradient[1, :, 0] == 0).all()
    assert (gradient[1, :, 1] != 0).all()
    assert (gradient[0] != 0).all()


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_can_stand_under_a_detector(attention: str):
    ours = FCOS(build("resnet18", attention=attention, num_classes=3, width=16), 2, 32, 1).eval()
    assert ours(torch.zeros(1, 3, 64, 96)).shape == (1, 4 * 6 + 2 * 3, 2 + 4 + 1)


def test_a_third_map_has_the_stride_eight():
    ours = network(finest=8)
    assert ours(torch.zeros(2, 3, 64, 96)).shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 2 + 4 + 1)
    (places,), per_map = ours.places(96, 64)
    assert per_map == [8 * 12, 4 * 6, 2 * 3]
    assert places[1].tolist() == [6, -2, 10, 2]  # half a stride around the second place
    with pytest.raises(BadOption, match="8 or 16"):
        network(finest=4)


def asked(numbers: list[tuple[int, int]]) -> Found:
    """Places and classes, as if something had been found there."""
    places, labels = (torch.tensor(each) for each in zip(*numbers, strict=True))
    rest = torch.zeros(len(numbers), 4), torch.zeros(len(numbers), 2)
    return Found(torch.zeros(len(numbers), 4), rest[0][:, 0], labels, places, *rest, (96, 64))


def hooked_map(ours: FCOS, image: Tensor, place: int, column: int, layers: list[str]) -> Tensor:
    """Activation times gradient by forward hooks and `backward` on the whole network."""
    kept: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor) -> Tensor:
        kept.append(output.requires_grad_())
        output.retain_grad()
        return output

    handles = [ours.get_submodule(BODY + layer).register_forward_hook(keep) for layer in layers]
    try:
        ours(image)[0, place, column].backward()
    finally:
        for handle in handles:
            handle.remove()
    maps = []
    for activation in kept:
        assert activation.grad is not None
        maps.append((activation * activation.grad).sum(dim=1).relu().detach())
    return of_layers(maps)


@pytest.mark.parametrize("layers", [["layer2.0"], ["layer3.1"], ["layer2.1", "layer3.0"]])
def test_the_maps_of_several_boxes_equal_hooks_for_each(model: Detector, layers: list[str]):
    """In float64: the norms over few cells make much of float32's rounding."""
    ours = copy.deepcopy(model.network).double()
    image = model.card.frame(photo())[None].double()
    cut = cut_at(ours, [BODY + layer for layer in layers])
    activation, passed = cut.run_trunk(image)
    levels = [passed[each.layer] for each in cut.passed] + [activation]
    # More numbers than share one pass.
    numbers = [(place, label) for place in range(9) for label in (0, 1)]
    for of in ("score", "left", "bottom"):
        mine = of_layers(
            [
                box_maps(each, level, ours, asked(numbers), of)
                for each, level in zip(cut.cuts, levels, strict=True)
            ]
        )
        assert mine.shape == (18, *levels[0].shape[2:])
        assert (mine.flatten(1).amax(dim=1) > 0).sum() > 6
        for (place, label), found in zip(numbers, mine, strict=True):
            column = label if of == "score" else 2 + SIDES.index(of)
            theirs = hooked_map(ours, image, place, column, layers)[0]
            torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-7)


def test_maps_of_several_layers_become_one_by_hand():
    fine = torch.tensor([[[2.0, 0, 0, 0]]])
    coarse = torch.tensor([[[0.0, 4.0]]])
    # Each by its maximum, the coarse one enlarged: 0, 0.25, 0.75, 1.
    assert of_layers([fine, coarse]).tolist() == [[[1, 0.25, 0.75, 1]]]
    assert of_layers([coarse]) is coarse
    assert of_layers([coarse * 0, coarse * 0]).tolist() == [[[0, 0]]]


def test_each_formula_gives_what_its_paper_says_by_hand():
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two channels of two cells
    gradient = torch.tensor([[[[1.0, -3.0]], [[2.0, 5.0]]]])
    expected = {
        "hirescam": [1 * 1 + 3 * 2, 0],  # 2 * -3 + 0 is negative
        "layercam": [7, 0],
        "gradcam": [-1 * 1 + 3.5 * 3, 0],  # channel means -1 and 3.5; -1 * 2 + 0 is negative
    }
    assert expected.keys() == BOX_METHODS.keys()
    for name, method in BOX_METHODS.items():
        assert method.run(activation, gradient).flatten().tolist() == expected[name]
    assert BOX_METHODS["gradcam"].run is gradcam


def test_finding_says_boxes_in_the_photos_own_pixels(model: Detector):
    small, large = model.detect(photo(), maps=0), model.detect(photo(960, 640), maps=0)
    assert small.detections
    assert not small.heatmaps
    for box in [each.box for each in large.detections]:
        assert 0 <= box[0] <= box[2] <= 960
        assert 0 <= box[1] <= box[3] <= 640
    assert max(each.box[2] for each in large.detections) > 96


def test_finding_gives_maps_of_the_surest_boxes_and_all_gates(model: Detector):
    found = model.detect(photo(), maps=3)
    assert [each.detection for each in found.heatmaps] == [0, 1, 2]
    scores = [each.score for each in found.detections]
    assert scores == sorted(scores, reverse=True)
    blocks = [each.block for each in found.attention]
    assert blocks == build("resnet18", attention="cbam").block_names  # those behind the cut, too
    assert found.layer == "layer3.1"


def test_a_box_can_be_chosen_by_its_place(model: Detector):
    every = model.detect(photo(), maps=0).detections
    chosen = model.detect(photo(), box=every[2].box)
    assert [each.detection for each in chosen.heatmaps] == [2]
    assert not model.detect(photo(), box=(0, 0, 1, 1)).heatmaps


def test_several_layers_give_one_map_as_fine_as_the_finest(model: Detector):
    found = model.detect(photo(), layer="layer3.1, layer2.0", method="layercam", maps=2)
    assert found.layer == "layer2.0,layer3.1"
    assert found.heatmaps[1].map.shape == (4, 8)
    assert found.heatmaps[1].map.max() <= 1
    alone = [
        model.detect(photo(), layer=name, method="layercam", maps=2)
        for name in ("layer2.0", "layer3.1")
    ]
    parts = [torch.from_numpy(each.heatmaps[1].map)[None] for each in alone]
    torch.testing.assert_close(torch.from_numpy(found.heatmaps[1].map), of_layers(parts)[0])


@pytest.mark.parametrize("of", OF)
def test_every_number_of_a_box_can_be_explained(model: Detector, of: str):
    assert model.detect(photo(), of=of).heatmaps[0].map.shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "gradcan"}, UnknownName, "hirescam, layercam, gradcam"),
        ({"of": "width"}, UnknownName, "score, left, top, right, bottom"),
        ({"layer": "layer4.1"}, UnknownName, "layer3.1"),
        ({"layer": "layer1.0,layer4.1"}, UnknownName, "layer3.1"),
        ({"layer": "layer1.0,layer1.1,layer2.0,layer2.1,layer3.0"}, OptionClash, "4 at most"),
        ({"score": 2.0}, OptionClash, "between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_said(model: Detector, options, error, says: str):
    with pytest.raises(error, match=says):
        model.detect(photo(), **options)


def test_a_map_inside_the_box_has_all_its_energy_there():
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 0] = 1
    whole = box_map(0, values, (0, 0, 80, 80), (80, 80))
    assert whole.energy_in_box == pytest.approx(1)
    assert whole.energy_uniform == pytest.approx(1)
    away = box_map(0, values, (60, 60, 80, 80), (80, 80))
    assert away.energy_in_box == pytest.approx(0)
    assert away.energy_uniform == pytest.approx(1 / 16)
    assert 0.5 < away.energy_of_box < 1  # enlarging four cells blurs over the box's edge
    assert box_map(0, values * 0, (0, 0, 9, 9), (80, 80)).energy_in_box is None


def test_overlap_by_hand():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def detected(*boxes: tuple[tuple[float, float, float, float], int]) -> Detected:
    found = tuple(Detection(box, index, LABELS[index], 0.9) for box, index in boxes)
    return Detected("m", photo(), found, (), "score", "hirescam", "l", (), {})


def test_boxes_of_two_models_around_one_thing_are_linked_once():
    mine = detected(((0, 0, 10, 10), 0), ((0, 0, 10, 9), 0), ((50, 0, 60, 10), 1))
    other = detected(((50, 0, 60, 10), 0), ((0, 0, 10, 9), 0))
    assert counterparts(mine, other) == (1, None, None)  # the third is of another class


def test_the_frame_is_a_whole_number_of_cells_and_boxes_follow():
    frame = Frame(224)
    assert frame.size(1000, 750) == (224, 160)
    assert frame.size(3, 3000) == (32, 224)
    assert frame.scales(448, 448) == (0.5, 0.5, 0.5, 0.5)
    assert frame(photo(100, 75)).shape == (3, 160, 224)


def test_a_square_frame_bends_photos_to_any_size():
    frame = Frame(300, square=True)
    assert frame.size(1000, 750) == (300, 300)
    assert frame.scales(600, 150) == (0.5, 2, 0.5, 2)
    assert frame(photo(100, 75)).shape == (3, 300, 300)


def test_a_detector_stores_its_head_alone(tiny_detectors: Path, tmp_path: Path):
    card = read_detector_card(tiny_detectors / "tiny-cbam-things")
    assert card.title == "FCOS on CBAM-ResNet-18"
    head = (card.folder / "weights.safetensors").stat().st_size
    assert head < (tiny_detectors / "tiny-cbam" / "weights.safetensors").stat().st_size
    assert write_detector_card(card) == card  # what was read is what is written


def test_classifiers_and_detectors_are_listed_apart(tiny_detectors: Path):
    assert [*available(tiny_detectors)] == ["tiny-none", "tiny-se", "tiny-cbam"]
    names = ["tiny-none-things", "tiny-se-things", "tiny-cbam-things"]
    assert [*detectors(tiny_detectors)] == names
    assert is_detector(tiny_detectors / "tiny-se-things")
    assert not is_detector(tiny_detectors / "tiny-se")
    assert not is_detector(tiny_detectors)


def test_a_detector_on_other_weights_is_refused(tmp_path: Path):
    card = tiny_detector(tmp_path)
    write_detector_card(replace(card, classifier_sha256="0" * 64))
    with pytest.raises(BadCard, match="other weights"):
        cbam.load(card.folder)


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path):
    card = tiny_detector(tmp_path)
    write_detector_card(replace(card, labels=("one", "two", "three")))
    with pytest.raises(BadCard, match="do not fit"):
        open_detector(read_detector_card(card.folder))


def test_several_detectors_answer_about_one_photo(tiny_detectors: Path):
    models = [cbam.load(card.folder) for card in detectors(tiny_detectors).values()]
    found = cbam.detect(models, photo(), DetectOptions(maps=0, attention=False))
    assert [each.model for each in found] == [model.name for model in models]
    assert not any(each.attention for each in found)


def test_the_documentation_names_every_method_and_number_of_a_box():
    page = Path(__file__).parent.parent.joinpath("docs", "detection.md").read_text("utf-8")
    assert [name for name in BOX_METHODS if f"| `{name}` |" not in page] == []
    assert [name for name in SIDES if f"`{name}`" not in page] == []
