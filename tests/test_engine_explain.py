"""A model's answer on a photo, and several models on the same one."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import explain, explain_many
from PIL import Image
from pytorch_grad_cam import GradCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION
from cbam.errors import BadImage, BrokenImage, NotAnImage, OptionClash, TooSlow, UnknownName
from cbam.explain.explainer import answer_many
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS, heat_maps
from cbam.explain.question import Options, resolve
from cbam.explain.targets import ClassLogit
from cbam.images.preprocess import Box
from cbam.model import Model, load
from cbam.trace.cut import Cut

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]

FAMILY = ("none", "se", "cbam")


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("layer", [None, "layer4.1", "layer2.0"])
def test_probabilities_are_the_networks_softmax(
    make_model: MakeModel, make_photo: MakePhoto, attention: str, layer: str | None
):
    model, photo = make_model(attention), make_photo()
    explanation = model.explain(photo, layer=layer)
    with torch.inference_mode():
        batch = model.card.preprocess(photo).unsqueeze(0)
        expected = model.network(batch)[0].softmax(0)
    found = torch.tensor(
        [p.probability for p in sorted(explanation.predictions, key=lambda p: p.index)]
    )
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_predictions_are_the_most_probable_first_and_as_many_as_asked(
    make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model()
    explanation = model.explain(make_photo(), top_k=3)
    probabilities = [prediction.probability for prediction in explanation.predictions]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    for prediction in explanation.predictions:
        assert prediction.label == model.card.labels[prediction.index]
    assert len(model.explain(make_photo(), top_k=99).predictions) == 5


def test_without_a_target_the_top_class_is_explained(make_model: MakeModel, make_photo: MakePhoto):
    explanation = make_model().explain(make_photo())
    assert explanation.target == explanation.predictions[0]
    assert explanation.heatmaps[0].index == explanation.target.index


@pytest.mark.parametrize("target", [3, "3", "golf ball", "GOLF Ball"])
def test_a_target_is_an_index_or_a_label(
    make_model: MakeModel, make_photo: MakePhoto, target: int | str
):
    explanation = make_model().explain(make_photo(), target=target)
    assert (explanation.target.index, explanation.target.label) == (3, "golf ball")
    assert (explanation.heatmaps[0].index, explanation.heatmaps[0].label) == (3, "golf ball")


def test_a_target_outside_the_top_k_has_its_probability_and_map(
    make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model()
    everything = model.explain(make_photo())
    last = everything.predictions[-1]
    explanation = model.explain(make_photo(), target=last.index, top_k=2)
    assert explanation.target == last
    assert [item.index for item in explanation.heatmaps] == [
        last.index, *(prediction.index for prediction in everything.predictions[:2]),
    ]  # fmt: skip


def test_at_the_last_layer_the_top_classes_maps_come_free_and_are_the_asked_ones(
    make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model()
    explanation = model.explain(make_photo(), target=2)
    assert len(explanation.heatmaps) == 5
    for item in explanation.heatmaps:
        alone = model.explain(make_photo(), target=item.index).heatmap
        np.testing.assert_array_equal(item.map, alone)


@pytest.mark.parametrize(
    ("method", "layer"),
    [("layercam", None), ("gradcam", "layer3.1"), ("gradcam", "layer3.1,layer4.1")],
)
def test_elsewhere_only_the_targets_map_is_computed(
    make_model: MakeModel, make_photo: MakePhoto, method: str, layer: str | None
):
    explanation = make_model().explain(make_photo(), method=method, layer=layer)
    assert len(explanation.heatmaps) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_heat_map_is_the_methods_raw_map(
    make_model: MakeModel, make_photo: MakePhoto, method: str
):
    model, photo = make_model(), make_photo()
    np.random.seed(0)  # Random-CAM draws from the global generator
    explanation = model.explain(photo, target=1, method=method, layer="layer3.0")
    cut = model.cut(("layer3.0",))
    activation, _ = cut.run_trunk(model.card.preprocess(photo).unsqueeze(0))
    np.random.seed(0)
    image = model.card.preprocess(photo).unsqueeze(0)
    expected = heat_maps(cut, activation, [ClassLogit(1)], METHODS[method], image=image)[0].numpy()
    assert (explanation.method, explanation.layer) == (method, "layer3.0")
    assert explanation.heatmap.shape == (4, 4)
    assert explanation.heatmap.dtype == np.float32
    np.testing.assert_allclose(explanation.heatmap, expected, rtol=1e-3, atol=1e-6)


def test_the_last_block_is_the_default_layer(make_model: MakeModel, make_photo: MakePhoto):
    model = make_model()
    assert model.layers[-1] == "layer4.1"
    assert model.explain(make_photo()).layer == "layer4.1"


@pytest.mark.parametrize(
    ("attention", "gates"), [("none", set()), ("se", {"channel"}), ("cbam", {"channel", "spatial"})]
)
@pytest.mark.parametrize("layer", ["layer1.0", "layer4.1"])
def test_gate_maps_come_block_by_block_in_order_whatever_the_layer(
    make_model: MakeModel, make_photo: MakePhoto, attention: str, gates: set[str], layer: str
):
    model = make_model(attention)
    found = model.explain(make_photo(), layer=layer).attention
    assert [item.block for item in found] == (model.layers if gates else [])
    for item, channels, cells in zip(
        found, (8, 8, 16, 16, 32, 32, 64, 64), (16, 16, 8, 8, 4, 4, 2, 2), strict=False
    ):
        assert item.channel.shape == (channels,)
        assert item.channel.min() > 0
        assert item.channel.max() < 1
        if "spatial" in gates:
            assert item.spatial.shape == (cells, cells)
            assert item.spatial.min() > 0
            assert item.spatial.max() < 1
        else:
            assert item.spatial is None


def test_one_gate_alone_leaves_the_other_none(make_model: MakeModel, make_photo: MakePhoto):
    model = make_model("cbam", attention_options={"gates": "spatial"})
    found = model.explain(make_photo()).attention
    assert len(found) == 8
    assert all(item.channel is None and item.spatial is not None for item in found)


def test_maps_of_a_single_cell_keep_two_dimensions(make_model: MakeModel, make_photo: MakePhoto):
    explanation = make_model("cbam", size_px=32).explain(make_photo())
    assert explanation.heatmap.shape == (1, 1)
    assert explanation.attention[-1].spatial.shape == (1, 1)


def test_gate_maps_can_be_left_out(make_model: MakeModel, make_photo: MakePhoto):
    (explanation,) = explain([make_model("cbam")], make_photo(), Options(attention=False))
    assert explanation.attention == ()


def test_timing_names_its_two_parts(make_model: MakeModel, make_photo: MakePhoto):
    timing = make_model().explain(make_photo()).timing_ms
    assert set(timing) == {"trunk", "head"}
    assert min(timing.values()) > 0


def test_all_models_explain_the_first_ones_top_class(make_model: MakeModel, make_photo: MakePhoto):
    models = [make_model(attention, seed=seed) for seed, attention in enumerate(FAMILY)]
    tops = [model.explain(make_photo()).target.index for model in models]
    assert len(set(tops)) > 1  # they disagree, so the test tells
    found = explain(models, make_photo())
    assert [item.target.index for item in found] == [tops[0]] * 3
    assert [item.predictions[0].index for item in found] == tops
    assert [item.model for item in found] == [model.name for model in models]


def test_all_models_explain_the_class_asked_for(make_model: MakeModel, make_photo: MakePhoto):
    models = [make_model(attention) for attention in FAMILY]
    found = explain(models, make_photo(), Options(target="church"))
    assert [item.target.label for item in found] == ["church"] * 3


def test_models_of_different_classes_are_not_compared(make_model: MakeModel, make_photo: MakePhoto):
    models = [make_model("none"), make_model("cbam", labels=("cat", "dog"))]
    with pytest.raises(OptionClash, match="different classes.*one family"):
        explain(models, make_photo())


@pytest.mark.parametrize(
    ("options", "known"),
    [
        (Options(method="gradcan"), f"'gradcan'.*{re.escape(', '.join(METHODS))}"),
        (Options(layer="layer9.9"), r"layer1\.0, .*layer4\.1"),
        (Options(layer="layer1.0.conv1"), r"layer1\.0, .*layer4\.1"),
        (Options(layer="layer4.1,layer9.9"), r"'layer9\.9'.* layer1\.0, .*layer4\.1"),
        (Options(method="finercam", versus="zebra"), "0 tench, 1 church"),
        (Options(target="zebra"), "0 tench, 1 church"),
        (Options(target=5), "4 French horn"),
    ],
)
def test_unknown_names_are_refused_with_those_that_there_are(
    make_model: MakeModel, options: Options, known: str
):
    models = [make_model("none"), make_model("cbam")]
    with pytest.raises(UnknownName, match=known):
        resolve(models, options)


def test_a_class_to_contrast_with_wants_a_method_that_contrasts(make_model: MakeModel):
    with pytest.raises(OptionClash, match="'gradcam' explains a class by.*'church'.*finercam"):
        resolve([make_model("none")], Options(versus="church"))


def test_a_question_holds_what_its_names_mean(make_model: MakeModel):
    models = [make_model("none"), make_model("cbam")]
    options = Options("church", "finercam", "layer4.1,layer2.0", versus="4", time_limit_s=3)
    question = resolve(models, options)
    assert question.models == tuple(models)
    assert (question.target, question.word, question.versus) == ((1,), "", (4,))
    assert question.layers == (("layer2.0", "layer4.1"),) * 2
    assert question.method is METHODS["finercam"]
    assert question.time_limit_s == 3
    assert resolve(models).layers == (("layer4.1",),) * 2
    assert resolve(models).time_limit_s == float("inf")
    assert resolve(models).target == ()


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam"])
def test_the_map_of_several_layers_is_the_packages_mean_of_their_maps(
    make_model: MakeModel, make_photo: MakePhoto, method: str
):
    package_class = {"gradcam": GradCAM, "layercam": LayerCAM, "scorecam": ScoreCAM}[method]
    model, photo = make_model(seed=1), make_photo()
    found = model.explain(photo, target=0, method=method, layer="layer4.1,layer3.0")
    assert found.layer == "layer3.0,layer4.1"
    assert found.heatmap.shape == (64, 64)  # the model's input
    assert found.heatmap.max() > 0.4
    blocks = [model.network.layer3[0], model.network.layer4[1]]
    batch = model.card.preprocess(photo).unsqueeze(0).requires_grad_()
    with package_class(model.network, blocks) as cam:
        expected = cam(batch, [ClassifierOutputTarget(0)])
    np.testing.assert_allclose(scale_cam_image(found.heatmap[None]), expected, atol=1e-4)


def test_all_models_contrast_with_the_same_classes(make_model: MakeModel, make_photo: MakePhoto):
    models = [make_model(attention, seed=seed) for seed, attention in enumerate(FAMILY)]
    alone = [model.explain(make_photo(), method="finercam", target=1) for model in models]
    rivals = [[item.label for item in answer.versus] for answer in alone]
    assert len({tuple(labels) for labels in rivals}) > 1  # they differ, so the test tells
    assert all(len(labels) == 3 and "church" not in labels for labels in rivals)
    for answer in explain(models, make_photo(), Options(method="finercam", target=1)):
        assert [item.label for item in answer.versus] == rivals[0]
    named = Options(method="finercam", target=1, versus="French horn")
    for answer in explain(models, make_photo(), named):
        assert [(item.index, item.label) for item in answer.versus] == [(4, "French horn")]


def test_a_class_is_not_contrasted_with_itself(make_model: MakeModel, make_photo: MakePhoto):
    model = make_model()
    top = model.explain(make_photo()).target.label
    for target in (top, None):
        with pytest.raises(OptionClash, match=f"'{top}' cannot be contrasted with itself"):
            model.explain(make_photo(), target, "finercam", versus=top)


def test_only_a_method_that_contrasts_tells_with_what(make_model: MakeModel, make_photo: MakePhoto):
    assert make_model().explain(make_photo()).versus == ()


def test_every_method_answers_at_every_depth_of_every_attention(
    make_model: MakeModel, make_photo: MakePhoto
):
    models = [make_model(attention) for attention in FAMILY]
    questions = [
        (make_photo(seed), Options(method=method, layer=layer))
        for layer in ("layer1.0", "layer3.1", "layer4.1", "layer2.1,layer4.1")
        for seed, method in enumerate(METHODS)
    ]
    for (_, options), answers in zip(questions, explain_many(models, questions), strict=True):
        assert isinstance(answers, list), f"{options}: {answers}"
        for answer in answers:
            assert (answer.method, answer.layer) == (options.method, options.layer)
            assert np.isfinite(answer.heatmap).all()
            assert answer.heatmap.min() >= 0
    for model in models:
        assert all(p.grad is None and not p.requires_grad for p in model.network.parameters())
        assert not any(module.training for module in model.network.modules())


def test_a_path_bytes_and_a_picture_are_answered_alike(
    make_model: MakeModel, make_photo: MakePhoto, tmp_path: Path
):
    model, photo = make_model(), make_photo()
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo))
    answers = [model.explain(each) for each in (path, str(path), png(photo), photo)]
    for answer in answers:
        np.testing.assert_array_equal(answer.heatmap, answers[0].heatmap)
        assert answer.predictions == answers[0].predictions


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image.new("RGBA", (20, 30), (200, 0, 0, 0)),  # transparent: seen on white
        lambda: Image.new("LA", (20, 30), (10, 128)),
        lambda: Image.new("I;16", (20, 30), 40_000),
        lambda: Image.new("L", (20, 30), 90),
    ],
    ids=["RGBA", "LA", "I;16", "L"],
)
def test_a_picture_is_seen_as_its_file_would_be(
    make_model: MakeModel, make: Callable[[], Image.Image]
):
    model = make_model()
    np.testing.assert_array_equal(
        np.asarray(model.explain(make()).photo), np.asarray(model.explain(png(make())).photo)
    )


def test_a_picture_with_an_orientation_is_turned_upright(
    make_model: MakeModel, make_photo: MakePhoto, tmp_path: Path
):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    make_photo().save(path, exif=exif)
    model = make_model()
    assert model.explain(path).photo.size == (70, 90)
    with Image.open(path) as picture:
        assert model.explain(picture).photo.size == (70, 90)


def test_a_missing_file_is_refused(make_model: MakeModel, tmp_path: Path):
    with pytest.raises(BrokenImage, match=r"gone\.png"):
        make_model().explain(tmp_path / "gone.png")
    with pytest.raises(BadImage):
        make_model().explain(tmp_path)


def test_a_file_that_is_no_image_is_refused(make_model: MakeModel, tmp_path: Path):
    path = tmp_path / "photo.jpg"
    path.write_text("not a photo")
    with pytest.raises(NotAnImage):
        make_model().explain(path)


@pytest.mark.parametrize(
    ("fit", "view"), [("stretch", Box(0, 0, 90, 70)), ("crop", Box(10, 0, 80, 70))]
)
def test_the_view_says_what_the_model_saw_and_the_overlay_is_as_large_as_the_photo(
    make_model: MakeModel, make_photo: MakePhoto, fit: str, view: Box
):
    explanation = make_model(fit=fit).explain(make_photo())
    assert explanation.view == view
    assert explanation.overlay().size == explanation.photo.size == (90, 70)


def test_a_model_counts_its_parameters(make_model: MakeModel):
    model = make_model("none")
    assert model.parameters == sum(p.numel() for p in model.network.parameters())
    assert make_model("cbam").parameters > make_model("se").parameters > model.parameters


def test_an_unknown_model_is_refused_with_those_that_there_are():
    with pytest.raises(UnknownName) as caught:
        load("resnet18-cbam-nowhere")
    assert "'resnet18-cbam-nowhere'" in str(caught.value)
    assert all(name in str(caught.value) for name in cbam.available())


def assert_same_answer(found: Explanation, expected: Explanation) -> None:
    assert (found.model, found.method, found.layer) == (
        expected.model,
        expected.method,
        expected.layer,
    )
    assert (found.view, found.photo) == (expected.view, expected.photo)
    assert found.target.index == expected.target.index
    assert found.target.probability == pytest.approx(expected.target.probability, abs=1e-5)
    for one, other in zip(found.predictions, expected.predictions, strict=True):
        assert one.index == other.index
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    for mine, theirs in zip(found.heatmaps, expected.heatmaps, strict=True):
        assert mine.index == theirs.index
        np.testing.assert_allclose(mine.map, theirs.map, rtol=1e-3, atol=1e-6)
    for block, other_block in zip(found.attention, expected.attention, strict=True):
        np.testing.assert_allclose(block.channel, other_block.channel, atol=1e-5)
        if other_block.spatial is not None:
            np.testing.assert_allclose(block.spatial, other_block.spatial, atol=1e-5)


MIXED = [
    Options(),
    Options(target="church", method="hirescam"),
    Options(target=4, layer="layer3.0"),
    Options(top_k=2, attention=False),
    Options(method="layercam", layer="layer3.0"),
    Options(layer="layer4.1,layer3.0"),
    Options(method="finercam", layer=["layer3.0", "layer4.1"], target=2, versus=0),
    Options(method="finercam", layer="layer3.0"),
    Options(method="scorecam", target=1),
]


def counted_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Layer and number of images of every trunk pass from now on."""
    passes: list[tuple[str, int]] = []
    run_trunk = Cut.run_trunk

    def counting(self: Cut, images: torch.Tensor) -> object:
        passes.append((self.layer, len(images)))
        return run_trunk(self, images)

    monkeypatch.setattr(Cut, "run_trunk", counting)
    return passes


def test_many_questions_are_answered_as_one_by_one(make_model: MakeModel, make_photo: MakePhoto):
    models = [make_model(attention, seed=seed) for seed, attention in enumerate(FAMILY)]
    questions = [(make_photo(seed, 60 + seed), options) for seed, options in enumerate(MIXED)]
    found = explain_many(models, questions)
    assert len({answer[0].target.index for answer in found}) > 2  # not one answer for all
    for answer, (photo, options) in zip(found, questions, strict=True):
        expected = explain(models, photo, options)
        for one, other in zip(answer, expected, strict=True):
            assert_same_answer(one, other)


def test_questions_about_the_same_layer_share_a_trunk_pass_a_model(
    make_model: MakeModel, make_photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
):
    models = [make_model("none"), make_model("cbam")]
    passes = counted_passes(monkeypatch)
    answers = explain_many(models, [(make_photo(seed), MIXED[seed]) for seed in range(7)])
    assert sorted(passes) == [("layer3.0", 2)] * 2 + [("layer4.1", 2)] * 2 + [("layer4.1", 3)] * 2
    same_pass = [answers[row][0].timing_ms["trunk"] for row in (0, 1, 3)]
    assert len(set(same_pass)) == 1


def test_a_question_that_fails_leaves_the_others_alone(
    make_model: MakeModel, make_photo: MakePhoto
):
    class Unreadable(Image.Image):
        def resize(self, *args: object, **kwargs: object) -> Image.Image:
            raise OSError("image file is truncated")

    models = [make_model("none"), make_model("cbam")]
    good = (make_photo(1), Options(target=2))
    broken = Unreadable()
    broken._size = (20, 20)
    questions = [
        good,
        (broken, Options()),
        good,
    ]
    found = explain_many(models, questions)
    assert isinstance(found[1], OSError)
    for answer in (found[0], found[2]):
        for one, other in zip(answer, explain(models, *good), strict=True):
            assert_same_answer(one, other)
    with pytest.raises(OSError, match="truncated"):
        explain(models, broken)


def test_when_a_stacked_pass_fails_the_questions_are_asked_one_by_one(
    make_model: MakeModel, make_photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
):
    """Alone, only the photo that is the reason fails."""
    models = [make_model("none"), make_model("cbam")]
    questions = [(make_photo(seed), Options()) for seed in range(3)]
    expected = [explain(models, *question) for question in questions]
    bad = models[0].card.preprocess(questions[1][0])
    run_trunk = Cut.run_trunk

    def failing(self: Cut, images: torch.Tensor) -> object:
        if any(torch.equal(image, bad) for image in images):
            raise RuntimeError("out of memory")
        return run_trunk(self, images)

    monkeypatch.setattr(Cut, "run_trunk", failing)
    found = explain_many(models, questions)
    assert isinstance(found[1], RuntimeError)
    for row in (0, 2):
        for one, other in zip(found[row], expected[row], strict=True):
            assert_same_answer(one, other)


def test_no_questions_have_no_answers():
    assert answer_many([]) == []


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_a_method_of_many_passes_gives_up_when_its_time_is_over(
    make_model: Callable[..., Model], method: str
) -> None:
    model, photo = make_model("cbam"), Image.effect_noise((64, 64), 80).convert("RGB")
    allowed = Options(method=method, layer="layer3.0", time_limit_s=60)
    (explanation,) = explain([model], photo, allowed)
    assert explanation.heatmap.any()
    with pytest.raises(TooSlow, match="a cheaper method"):
        explain([model], photo, replace(allowed, time_limit_s=0))
    explain([model], photo, Options(time_limit_s=0))  # one pass is never cut
