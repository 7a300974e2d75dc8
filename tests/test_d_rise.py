"""D-RISE: equal to a loop over single masks, seeded, stoppable, and right where a hand can say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detecting import tiny_detector
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from cbam.detector import Detector
from cbam.detectors import FasterRCNN, Found
from cbam.errors import BadOption, OptionClash, TooSlow, UnknownName
from cbam.explain.d_rise import DRiseOptions, d_rise, d_rise_all, d_rise_maps, likeness, masks
from cbam.explain.detection import DetectOptions
from cbam.slices import Done, finished, next_slice

HOW = DRiseOptions(masks=20, grid=4, batch=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return cbam.load(tiny_detector(tmp_path_factory.mktemp("models")).folder)


def photo() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)


def test_masks_are_coarse_soft_and_the_same_whatever_the_batch():
    made = torch.cat([*masks(HOW, 96, 64)])
    assert made.shape == (20, 64, 96)
    assert made.min() >= 0
    assert made.max() <= 1
    assert made.mean() == pytest.approx(0.5, abs=0.05)
    again = torch.cat([*masks(DRiseOptions(masks=20, grid=4, batch=3), 96, 64)])
    assert torch.equal(made, again)
    other = torch.cat([*masks(DRiseOptions(masks=20, grid=4, seed=1), 96, 64)])
    assert not torch.equal(made, other)


def naive(network: nn.Module, image: Tensor, targets: Found, iou: float) -> np.ndarray:
    """One mask after the other, every pair of boxes by hand, weights and masks kept."""
    height, width = image.shape[2:]
    every = torch.cat([*masks(HOW, width, height)])
    size = (round(height * 56 / max(width, height)), round(width * 56 / max(width, height)))
    weights = np.zeros((len(every), len(targets.boxes)))
    for number, mask in enumerate(every):
        with torch.inference_mode():
            output = network(image * mask)[0]
            seen = network.found(output, width, height, HOW.score, iou, 100)
        for box in range(len(targets.boxes)):
            for other in range(len(seen.boxes)):
                a, b = targets.boxes[box].tolist(), seen.boxes[other].tolist()
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(
                    0, min(a[3], b[3]) - max(a[1], b[1])
                )
                areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
                one, two = targets.chances[box].numpy(), seen.chances[other].numpy()
                cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                weights[number, box] = max(weights[number, box], shared / (areas - shared) * cosine)
    small = nn.functional.interpolate(every[None], size=size, mode="area")[0].numpy()
    shown = small.sum(axis=0)
    maps = [(small * w[:, None, None]).sum(axis=0) / shown - w.mean() for w in weights.T]
    return np.stack(maps)


def test_it_equals_a_loop_over_single_masks(model: Detector):
    image = model.card.frame(photo())[None]
    with torch.inference_mode():
        targets = model.asked.found(model.network(image)[0], 64, 32, 0.3, 0.5, 5)
    targets = targets.some(range(len(targets.boxes)))
    assert len(targets.boxes) > 2
    mine = finished(d_rise_maps(model.network, model.asked, image, targets, HOW, 0.5))
    expected = naive(model.network, image, targets, 0.5)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(mine.numpy(), expected, atol=1e-4)


def test_a_detector_of_two_stages_is_asked_as_a_whole():
    torch.manual_seed(0)
    body = cbam.build("resnet18", num_classes=3, width=8)
    network = FasterRCNN(body, 2, channels=16, rpn_post_nms_top_n_test=20).eval()
    network.requires_grad_(False)
    nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.5)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    targets = network.found(network(image)[0], 96, 64, 0.1, 0.5, 3)
    assert len(targets.boxes) == 3
    mine = finished(d_rise_maps(network, network, image, targets, HOW, 0.5))
    np.testing.assert_allclose(mine.numpy(), naive(network, image, targets, 0.5), atol=1e-4)


class Sees(nn.Module):
    """Finds one box if the upper left quarter is bright, and is as sure of it as that is bright."""

    cuttable: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1, :32, :32].mean(dim=(1, 2, 3))[:, None, None]

    def found(
        self, output: Tensor, width: int, height: int, score: float, iou: float, limit: int
    ) -> Found:
        sure = float(output[0, 0])
        box = torch.tensor([[0.0, 0, 32 * sure, 32]])
        one = torch.ones(1)
        return Found(box, one * sure, one.long(), one.long(), box, one[:, None], (width, height))


def test_what_the_box_hangs_on_is_hot_and_the_rest_is_not():
    network = Sees()
    image = torch.ones(1, 3, 64, 64)
    targets = network.found(network(image)[0], 64, 64, 0, 0, 1)
    how = DRiseOptions(masks=300, grid=4)
    (found,) = finished(d_rise_maps(network, network, image, targets, how, 0.5))
    quarter = found[:28, :28]
    assert quarter.mean() > 5 * found[28:, 28:].abs().mean()
    assert found.argmax() % 56 < 28
    assert found.argmax() // 56 < 28


def test_nothing_seen_leaves_nothing_of_a_box():
    network = Sees()
    targets = network.found(torch.ones(1, 1), 64, 64, 0, 0, 1)
    assert likeness(targets, targets).tolist() == [1]
    assert likeness(targets, targets.some([])).tolist() == [0]


def test_all_boxes_of_a_photo_come_from_the_same_masks(model: Detector):
    options = DetectOptions(maps=3)
    heard: list[int] = []
    found = d_rise(model, photo(), options, HOW, heard.append)
    assert heard == [8, 16, 20]
    assert found.detections == model.find(photo(), options).detections
    assert [each.detection for each in found.heatmaps] == [0, 1, 2]
    assert found.heatmaps[0].map.shape == (28, 56)
    assert min(each.map.min() for each in found.heatmaps) == 0
    alone = d_rise(model, photo(), DetectOptions(maps=1), HOW)
    np.testing.assert_allclose(alone.heatmaps[0].map, found.heatmaps[0].map, atol=1e-6)
    assert not d_rise(model, photo(), DetectOptions(score=1.0), HOW).heatmaps


def test_several_detectors_are_asked_one_after_the_other_in_slices(model: Detector):
    options = DetectOptions(maps=2)
    work = d_rise_all([model, model], photo(), options, HOW)
    shares: list[float] = []
    while not isinstance(state := next_slice(work), Done):
        shares.append(state)
    assert shares == pytest.approx([0.2, 0.4, 0.5, 0.5, 0.7, 0.9, 1.0])
    alone = d_rise(model, photo(), options, HOW)
    for each in state.result:
        assert each.detections == alone.detections
        assert (each.method, each.of, each.layer) == ("d-rise", "score", "")
        for mine, its in zip(each.heatmaps, alone.heatmaps, strict=True):
            np.testing.assert_array_equal(mine.map, its.map)


def test_time_between_slices_is_not_the_models(model: Detector, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("cbam.explain.d_rise.time.perf_counter", lambda: clock[0])
    work = d_rise_all([model], photo(), DetectOptions(), HOW)
    while not isinstance(state := next_slice(work), Done):
        clock[0] += 1000
    assert state.result[0].timing_ms == {"trunk": 0, "head": 0}


def test_a_class_that_it_does_not_know_is_refused(model: Detector):
    options = DetectOptions(box=(0, 0, 9, 9), label="green")
    with pytest.raises(UnknownName, match="green"):
        d_rise(model, photo(), options, HOW)


def test_it_can_be_stopped(model: Detector):
    with pytest.raises(TooSlow, match="8 of 20 masks"):
        d_rise(model, photo(), DetectOptions(), DRiseOptions(**{**vars(HOW), "time_limit_s": 0.0}))

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        d_rise(model, photo(), DetectOptions(), HOW, stop)


@pytest.mark.parametrize("wrong", [{"masks": 0}, {"kept": 1.0}, {"grid": 0}, {"batch": 0}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]):
    with pytest.raises(BadOption, match=next(iter(wrong))):
        DRiseOptions(**wrong)  # type: ignore[arg-type]


def test_the_command_explains_boxes_so(model: Detector, tmp_path: Path):
    path = tmp_path / "photo.png"
    photo().save(path)
    given = ["detect", str(path), "--model", str(model.card.folder), "--method", "d-rise"]
    done = CliRunner().invoke(app, [*given, "--masks", "20", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert result["heatmaps"][0]["map"]["shape"] == [28, 56]
    assert "20/20 masks" in done.stderr
    with pytest.raises(OptionClash, match="leave out 'of'"):
        CliRunner().invoke(app, [*given, "--of", "left"], catch_exceptions=False)
