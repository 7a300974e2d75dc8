"""The grammar of interventions: a text or a mapping says what becomes of which gates."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from asking import explain, explain_many
from PIL import Image
from torch import Tensor

from cbam.cards.card import Card
from cbam.errors import BadOption, CBAMLensError, OptionClash, UnknownName
from cbam.explain.explainer import before_and_after
from cbam.explain.explanation import Explanation
from cbam.explain.interventions import changes
from cbam.explain.question import Options, resolve
from cbam.model import Model

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]
BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
GATES = [f"{block}.{kind}" for block in BLOCKS for kind in ("channel", "spatial")]


@pytest.fixture
def gated(make_model: MakeModel) -> Model:
    return make_model("cbam")


@pytest.fixture
def means(gated: Model, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Tensor]:
    """Stored means of every gate, different ones."""
    found = {
        name: torch.full((place.shape[0], 1, 1), 0.1 + number / 100)
        if name.endswith("channel")
        else torch.full((1, *place.shape[1:]), 0.2 + number / 100)
        for number, (name, place) in enumerate(gated.gates.items())
    }
    monkeypatch.setattr(Card, "gate_means", found, raising=False)
    return found


@pytest.fixture
def no_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Card, "gate_means", {}, raising=False)


def said(model: Model, gates: Any) -> dict[str, str]:
    (found,) = changes([model], gates)
    return dict(found.said)


def maps(explanation: Explanation) -> dict[str, np.ndarray]:
    """Every gate's values, by its name."""
    return {
        f"{block.block}.{kind}": gate.values
        for block in explanation.attention
        for kind, gate in block.gates.items()
    }


def test_a_model_says_where_its_gates_stand(make_model: MakeModel, gated: Model):
    assert list(gated.gates) == GATES
    place = gated.gates["layer2.0.channel"]
    assert (place.block, place.kind.name, place.paths) == ("layer2.0", "channel", ("avg", "max"))
    assert place.shape == (16, 1, 1)
    assert gated.gates["layer2.0.spatial"].shape[0] == 1
    assert gated.gates["layer2.0.spatial"].shape[1] > 1
    assert make_model("se").gates["layer1.0.channel"].paths == ()
    assert make_model("none").gates == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("layer1.0.channel=off", {"layer1.0.channel": "off"}),
        (" layer1.0.channel = off , ", {"layer1.0.channel": "off"}),
        ("layer4.*=0.5", dict.fromkeys(GATES[-4:], "0.5")),
        ("layer4.*.spatial=max", {f"layer4.{at}.spatial": "max" for at in (0, 1)}),
        ("*.channel=avg", {f"{block}.channel": "avg" for block in BLOCKS}),
        ("open", dict.fromkeys(GATES, "off")),
        ("*=off", dict.fromkeys(GATES, "off")),
        # What says more of a name goes before what says less.
        (
            "*=0.5, layer4.*.spatial=off, layer4.1.spatial=own",
            {
                name: "off" if name == "layer4.0.spatial" else "0.5"
                for name in GATES
                if name != "layer4.1.spatial"
            },
        ),
        ("layer1.0.channel=own", {}),
        ("*=1", {}),
        ("layer1.0.channel[3]=off", {"layer1.0.channel[3]": "off"}),
        ("layer1.*.channel[0-2]=at:0.3", {f"layer1.{at}.channel[0-2]": "at:0.3" for at in (0, 1)}),
        ("layer1.0.spatial=mask:01/..", {"layer1.0.spatial": "mask:01/.."}),
        # Twice the same is no clash.
        ("layer1.0.channel=off, layer1.0.channel=off", {"layer1.0.channel": "off"}),
        # Who cannot is left out, if others can.
        ("*=mask:0", {name: "mask:0" for name in GATES if name.endswith("spatial")}),
    ],
)
@pytest.mark.usefixtures("no_means")
def test_a_text_names_gates_and_says_what_becomes_of_them(
    gated: Model, text: str, expected: dict[str, str]
):
    assert said(gated, text) == expected
    if text and "," not in text and "=" in text:  # a mapping says the same
        places, how = text.split("=")
        assert said(gated, {places: how}) == expected


@pytest.mark.usefixtures("no_means")
@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("layer9.0.channel=off", UnknownName, ["layer9.0.channel", "layer1.0.channel"]),
        ("layer9.*=off", UnknownName, ["layer9.*", "layer4.1.spatial"]),
        ("shut", UnknownName, ["'shut'", "open", "mean", "layer1.0.channel=off"]),
        ("layer1.0.channel=shut", UnknownName, ["'shut'", "off", "mean", "avg", "strength"]),
        ("layer1.0.channel=1.5", UnknownName, ["'1.5'", "a strength from 0 to 1"]),
        ("layer1.0.channel=-1", UnknownName, ["'-1'"]),
        ("layer1.0.channel=nan", UnknownName, ["'nan'"]),
        ("layer1.0.channel=at:1e9", UnknownName, ["'at:1e9'"]),
        ("layer1.0.channel=at:999", UnknownName, ["'at:999'"]),
        ("layer1.0.channel[8]=off", UnknownName, ["layer1.0.channel", "'8'", "0 to 7"]),
        ("layer1.0.channel[5-2]=off", UnknownName, ["[2-5]"]),
        ("layer1.0.channel[=off", UnknownName, ["layer1.0.channel[7]"]),
        ("layer1.0.spatial=mask:01/0", UnknownName, ["mask:01/0"]),
        ("layer1.0.spatial[0]=off", OptionClash, ["no channels"]),
        ("layer1.0.channel=mask:01", OptionClash, ["no places"]),
        ("layer1.0.channel[0]=avg", OptionClash, ["all channels"]),
        ("layer1.0.channel=mean", OptionClash, ["no mean", "off"]),
        ("mean", OptionClash, ["no mean"]),
        ("layer1.*=off, *.spatial=0.5", OptionClash, ["layer1.*=off", "*.spatial=0.5"]),
        ("layer1.0.channel=off, layer1.0.channel=0.5", OptionClash, ["both speak"]),
        ("layer1.0.channel[0-3]=off, layer1.0.channel[3-4]=0.5", OptionClash, ["both speak"]),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(
    gated: Model, text: str, error: type[CBAMLensError], words: list[str]
):
    with pytest.raises(error) as found:
        changes([gated], text)
    for word in words:
        assert word in str(found.value)


def test_a_path_of_a_gate_with_one_path_is_refused(make_model: MakeModel):
    with pytest.raises(OptionClash, match="no path 'avg'"):
        changes([make_model("se")], "*=avg")


def test_models_without_the_gate_stay_as_they_are(make_model: MakeModel, make_photo: MakePhoto):
    family = [make_model(name) for name in ("none", "se", "cbam")]
    found = explain(family, make_photo(), Options(gates="*.spatial=off"))
    assert [bool(each.changed) for each in found] == [False, False, True]
    plain = explain(family, make_photo())
    for old, new in zip(plain[:2], found[:2], strict=True):
        assert np.array_equal(old.heatmap, new.heatmap)
    with pytest.raises(UnknownName, match="no gates"):
        changes(family[:1], "*=off")


@pytest.mark.usefixtures("means")
@pytest.mark.parametrize("layer", ["layer4.1", "layer2.0", "layer2.0,layer3.1"])
def test_what_was_asked_for_is_what_the_gates_say(
    gated: Model, make_photo: MakePhoto, means: Mapping[str, Tensor], layer: str
):
    own = maps(gated.explain(make_photo()))
    text = (
        "layer1.0.channel=off, layer1.0.spatial=mean, layer1.1.channel=at:0.3,"
        "layer1.1.spatial=mask:0.1, layer4.1.channel=mean, layer4.1.channel[2]=at:0.9"
    )
    found = gated.explain(make_photo(), layer=layer, gates=text)
    said = maps(found)
    assert (said["layer1.0.channel"] == 1).all()
    np.testing.assert_allclose(said["layer1.0.spatial"], means["layer1.0.spatial"][0])
    np.testing.assert_allclose(said["layer1.1.channel"], 0.3, rtol=1e-6)
    side = own["layer1.1.spatial"].shape[1]
    columns = np.floor(np.arange(side) * 3 / side)
    assert (said["layer1.1.spatial"][:, columns == 0] == 0).all()
    assert (said["layer1.1.spatial"][:, columns == 2] == 1).all()
    middle = said["layer1.1.spatial"][:, columns == 1]
    assert middle.std() > 0
    assert (middle > 0).all()
    assert (middle < 1).all()
    channel = said["layer4.1.channel"]
    assert channel[2] == pytest.approx(0.9)
    rest = np.delete(channel, 2)
    np.testing.assert_allclose(
        rest, np.delete(means["layer4.1.channel"].flatten().numpy(), 2), rtol=1e-6
    )
    assert found.changed == {
        "layer1.0.channel": "off",
        "layer1.0.spatial": "mean",
        "layer1.1.channel": "at:0.3",
        "layer1.1.spatial": "mask:0.1",
        "layer4.1.channel": "mean",
        "layer4.1.channel[2]": "at:0.9",
    }
    # What was said is itself a way to say it.
    again = gated.explain(make_photo(), layer=layer, gates=found.changed)
    assert np.array_equal(again.heatmap, found.heatmap)


def test_the_strength_moves_a_gate_between_its_own_map_and_one(gated: Model, make_photo: MakePhoto):
    own = maps(gated.explain(make_photo()))["layer1.0.channel"]
    half = maps(gated.explain(make_photo(), gates={"layer1.0.channel": 0.5}))["layer1.0.channel"]
    np.testing.assert_allclose(half, (own + 1) / 2, rtol=1e-6)
    plain, full = (gated.explain(make_photo(), gates=gates) for gates in (None, {"*": 1.0}))
    assert np.array_equal(plain.heatmap, full.heatmap)
    assert plain.predictions == full.predictions
    assert full.changed == {}


def test_an_array_can_be_painted_over_a_gate(gated: Model, make_photo: MakePhoto):
    values = np.array([[0.0, np.nan], [0.25, np.nan]])
    found = gated.explain(make_photo(), gates={"layer4.0.spatial": values})
    said = maps(found)["layer4.0.spatial"]
    rows, columns = (size // 2 for size in said.shape)
    assert (said[:rows, :columns] == 0).all()
    assert (said[rows:, :columns] == 0.25).all()
    assert found.changed == {"layer4.0.spatial": "an array of 2 x 2"}
    channels = np.linspace(0, 1, 8)
    found = gated.explain(make_photo(), gates={"layer1.0.channel": channels})
    np.testing.assert_allclose(maps(found)["layer1.0.channel"], channels, rtol=1e-6)
    with pytest.raises(OptionClash, match=r"\(8,\).*\(7,\)"):
        changes([gated], {"layer1.0.channel": channels[:7]})


@pytest.mark.parametrize("gates", [5, ["layer1.0.channel"], {"layer1.0.channel": object()}])
def test_what_is_neither_text_nor_mapping_is_refused(gated: Model, gates: Any):
    with pytest.raises(BadOption, match="gates"):
        resolve([gated], Options(gates=gates))


def test_questions_with_other_changes_are_answered_each_for_itself(
    gated: Model, make_photo: MakePhoto
):
    asked = ["", "layer1.0.channel=off", "*=0.5", "", "layer1.0.channel=off"]
    together = explain_many([gated], [(make_photo(), Options(gates=each)) for each in asked])
    for text, found in zip(asked, together, strict=True):
        alone = gated.explain(make_photo(), gates=text)
        assert not isinstance(found, Exception)
        np.testing.assert_allclose(found[0].heatmap, alone.heatmap, rtol=1e-4, atol=1e-5)
        assert found[0].changed == alone.changed


def test_before_and_after_are_about_the_same_class(make_model: MakeModel, make_photo: MakePhoto):
    family = [make_model(name) for name in ("none", "se", "cbam")]
    question = resolve(family, Options(gates="open"))
    before, after = before_and_after(question, make_photo())
    plain = explain(family, make_photo())
    assert [each.target.index for each in (*before, *after)] == [plain[0].target.index] * 6
    assert after[0] is before[0]  # it has no gates
    for model, old, new, own in zip(family[1:], before[1:], after[1:], plain[1:], strict=True):
        assert np.array_equal(old.heatmap, own.heatmap)
        same = model.explain(make_photo(), target=old.target.index, gates="open")
        assert np.array_equal(new.heatmap, same.heatmap)
        assert new.predictions == same.predictions
        assert new.changed
        assert not old.changed


def test_methods_that_run_the_network_again_run_the_changed_one(
    gated: Model, make_photo: MakePhoto
):
    plain = gated.explain(make_photo(), method="scorecam", target=0)
    told = gated.explain(make_photo(), method="scorecam", target=0, gates="*=off")
    assert not np.allclose(plain.heatmap, told.heatmap)
