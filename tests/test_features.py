"""Inside one block: features before and after its gates, and how each gate came to its map."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from app_fixtures import assert_problem, values
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import cbam
from cbam.attention import ATTENTION, PATHS, ChannelGate, Gate, SpatialGate
from cbam.attention.eca import NeighbourGate
from cbam.cards.card import Card
from cbam.errors import BadOption, CBAMLensError, OptionClash, UnknownName
from cbam.explain.explanation import GateMap
from cbam.explain.features import (
    MOST,
    PICKS,
    FeatureOptions,
    attentive_blocks,
    look_many,
    resolve_features,
)
from cbam.explain.gate_words import LITTLE, STATES, judge
from cbam.model import Model

pytest_plugins = ["app_fixtures"]

WITH_GATES = [name for name, record in ATTENTION.items() if record.gates]
MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]


def hooked(model: Model, module: str, photo: Image.Image) -> tuple[Tensor, Tensor]:
    """What a module of the plain network takes and gives."""
    seen: list[Tensor] = []
    network = model.network
    network.get_submodule(module).register_forward_hook(
        lambda _, taken, given: seen.extend((taken[0].clone(), given.clone()))
    )
    with torch.inference_mode():
        network(model.card.preprocess(photo)[None])
    return seen[0][0], seen[1][0]


@pytest.mark.parametrize("attention", WITH_GATES)
@pytest.mark.parametrize("placement", ["late", "own"])
def test_features_are_those_of_the_plain_network(
    attention: str, placement: str, make_model: MakeModel, make_photo: MakePhoto
):
    model, photo = make_model(attention, placement=placement), make_photo()
    block = next(iter(attentive_blocks(model.gates)))
    owner = block if block.endswith("attention") else f"{block}.attention"
    taken, given = hooked(model, owner, photo)
    found = model.features(photo, block, channels=[2, 0])
    assert [each.index for each in found.channels] == [2, 0]
    assert found.channel_count == len(taken)
    for each in found.channels:
        assert_close(torch.from_numpy(each.before), taken[each.index], rtol=1e-4, atol=1e-4)
        assert_close(torch.from_numpy(each.after), given[each.index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", WITH_GATES)
def test_maps_are_those_of_the_explanation(
    attention: str, make_model: MakeModel, make_photo: MakePhoto
):
    model, photo = make_model(attention), make_photo()
    explained = {each.block: each.gates for each in model.explain(photo).attention}
    block = "layer3.1"
    found = model.features(photo, block)
    assert [each.map.kind.name for each in found.gates] == list(explained[block])
    for gate in found.gates:
        own = explained[block][gate.map.kind.name]
        np.testing.assert_allclose(gate.map.values, own.values, rtol=1e-4, atol=1e-5)


def paths_of(gate: Any) -> np.ndarray:
    """The map that a gate's paths come to, by the documented formula."""
    logits = sum(path.logits for path in gate.paths.values()) + gate.bias
    return np.asarray(1 / (1 + np.exp(-logits)))


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("se", {}),
        ("eca", {}),
        ("cbam", {}),
        ("cbam", {"pool": "max"}),
        ("cbam", {"squeeze": "conv"}),
        ("cbam", {"kernel": 3, "order": "spatial-first"}),
        ("cbam", {"order": "parallel"}),
    ],
    ids=str,
)
def test_the_paths_come_to_the_map(
    attention: str, options: dict[str, Any], make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model(attention, attention_options=options)
    for gate in model.features(make_photo(), "layer2.1").gates:
        assert set(gate.paths) <= set(PATHS)
        assert gate.paths
        np.testing.assert_allclose(paths_of(gate), gate.map.values, atol=1e-5)


def test_a_channels_logit_is_the_sum_of_its_hidden_units(
    make_model: MakeModel, make_photo: MakePhoto
):
    found = make_model("cbam").features(make_photo(), "layer4.1", channels="3, 5-6")
    gate = found.gates[0]
    for channel in found.channels:
        assert channel.weights is not None
        assert channel.bias is not None
        for path in gate.paths.values():
            assert path.hidden is not None
            by_hand = float(path.hidden @ channel.weights) + channel.bias
            assert by_hand == pytest.approx(float(path.logits[channel.index]), abs=1e-4)


def test_the_window_over_the_planes_is_the_spatial_gate(
    make_model: MakeModel, make_photo: MakePhoto
):
    model = make_model("cbam", size_px=96)
    gate = model.features(make_photo(), "layer1.0").gates[1]
    assert set(gate.window) == {"avg", "max"}
    row, column = 4, 9
    logit = gate.bias
    for name, path in gate.paths.items():
        padded = np.pad(path.pooled, 3)
        logit += float((padded[row : row + 7, column : column + 7] * gate.window[name]).sum())
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(float(gate.map.values[row, column]), abs=1e-4)


def test_gates_without_steps_say_none():
    silent = {
        type(module).__name__
        for record in ATTENTION.values()
        if record.gates
        for module in record.make(16).modules()
        if isinstance(module, Gate) and not isinstance(module, SayingGate)
    }
    assert silent == {
        "ChannelLogits", "SpatialLogits", "BothGate", "EnergyGate", "Pooling", "Added", "RowGate",
        "ColumnGate",
    }  # fmt: skip
    for record in ATTENTION.values():
        for module in record.make(16).modules():
            if type(module).__name__ in silent:
                assert module.steps(torch.zeros(1, 16, 2, 2)) is None


SayingGate = ChannelGate | SpatialGate | NeighbourGate


def test_changed_gates_change_the_features_and_are_not_judged(
    make_model: MakeModel, make_photo: MakePhoto
):
    model, photo = make_model("cbam"), make_photo()
    gates = "layer1.0.channel=off, layer2.0.channel=at:0.5"
    changed = model.features(photo, "layer2.0", channels=[1], gates=gates)
    plain = model.features(photo, "layer2.0", channels=[1])
    assert dict(changed.changed) == {"layer1.0.channel": "off", "layer2.0.channel": "at:0.5"}
    assert changed.gates[0].judgement is None
    assert changed.gates[1].judgement is not None
    np.testing.assert_allclose(changed.gates[0].map.values, 0.5)
    assert not np.allclose(changed.channels[0].before, plain.channels[0].before)
    spatial = changed.gates[1].map.values
    after = changed.channels[0].before * 0.5 * spatial
    np.testing.assert_allclose(changed.channels[0].after, after, rtol=1e-5, atol=1e-6)


def test_picked_channels_are_the_most_open_and_the_most_shut(
    make_model: MakeModel, make_photo: MakePhoto
):
    model, photo = make_model("se"), make_photo()
    gate = model.features(photo, "layer3.0").gates[0].map.values
    falling = np.argsort(-gate)

    def picked(pick: Any) -> list[int]:
        return [each.index for each in model.features(photo, "layer3.0", pick=pick).channels]

    assert picked("open") == falling[:6].tolist()
    assert picked("shut") == falling[::-1][:6].tolist()
    strongest = model.features(photo, "layer3.0", pick="strongest", count=2).channels
    strengths = [float(np.abs(each.after).mean()) for each in strongest]
    every = model.features(photo, "layer3.0", channels="0-31").channels
    assert strengths == sorted(float(np.abs(each.after).mean()) for each in every)[::-1][:2]
    assert set(PICKS) == {"strongest", "open", "shut"}


def test_places_that_a_spatial_gate_shuts(make_model: MakeModel, make_photo: MakePhoto):
    found = make_model("cbam").features(make_photo(), "layer1.0", gates="layer1.0.spatial=mask:01")
    channel, spatial = found.gates
    assert channel.shut is None
    assert spatial.shut is not None
    half = spatial.shut.shape[1] // 2
    assert spatial.shut[:, :half].all()
    assert not spatial.shut[:, half:].any()


def test_questions_about_one_block_share_a_pass(make_model: MakeModel, make_photo: MakePhoto):
    model = make_model("cbam")
    asked = [
        (resolve_features([model], FeatureOptions("layer1.1", channels)), make_photo(seed))
        for seed, channels in enumerate(([0], [3, 4]))
    ]
    together = look_many(asked)
    for (question, photo), found in zip(asked, together, strict=True):
        (alone,) = look_many([(question, photo)])
        assert isinstance(found, list)
        assert isinstance(alone, list)
        for one, other in zip(found[0].channels, alone[0].channels, strict=True):
            assert one.index == other.index
            np.testing.assert_allclose(one.after, other.after, rtol=1e-4, atol=1e-5)
    assert look_many([]) == []


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"block": 3}, BadOption),
        ({"block": "layer9"}, UnknownName),
        ({"channels": [99]}, UnknownName),
        ({"channels": [-1]}, BadOption),
        ({"channels": "1-"}, BadOption),
        ({"channels": "5-2"}, BadOption),
        ({"channels": "0-99"}, BadOption),
        ({"channels": "x"}, BadOption),
        ({"channels": 3}, BadOption),
        ({"channels": list(range(MOST + 1))}, BadOption),
        ({"channels": [True]}, BadOption),
        ({"pick": "best"}, UnknownName),
        ({"pick": ["open"]}, UnknownName),
        ({"count": 0}, BadOption),
        ({"count": True}, BadOption),
        ({"count": MOST + 1}, BadOption),
        ({"gates": 3}, BadOption),
        ({"gates": "layer9.channel=off"}, UnknownName),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_a_sentence(
    options: dict[str, Any],
    kind: type[CBAMLensError],
    tiny_model: Model,
    make_photo: MakePhoto,
):
    with pytest.raises(kind, match=r"\.$"):
        tiny_model.features(make_photo(), **options)


def test_a_model_without_gates_is_told_so(make_model: MakeModel, make_photo: MakePhoto):
    with pytest.raises(OptionClash, match="no gates to look at"):
        make_model("none").features(make_photo())


def card_with(model: Model, name: str, mean: float, **measured: float) -> Card:
    """The model's card, its gate measured like this; its mean is the same for every value."""
    place = model.gates[name]
    metrics = {"gate_values": {name: {"within_photo": 0.1, "dead": 0.0, **measured}}}
    card = replace(model.card, metrics=metrics)
    vars(card)["gate_means"] = {name: torch.full(place.shape, mean)}
    return card


CHANNEL = "layer1.0.channel"
KIND = ChannelGate.kind
RISING = np.linspace(0.2, 0.8, 8, dtype=np.float32)
HALVES = np.array([0.01, 0.02, 0.01, 0.02, 0.98, 0.99, 0.98, 0.99], np.float32)


@pytest.mark.parametrize(
    ("values", "measured", "state", "words"),
    [
        (np.full(8, 0.5, np.float32), {"over_photos": 0.1}, "untrained", "0.50 for all channels"),
        (np.full(8, 0.7, np.float32), {"over_photos": 0.1}, "constant", "0.70 for all channels"),
        (RISING, {"over_photos": 0.1, "dead": 0.5}, "dead", "50% of its channels"),
        (HALVES / 2, {"over_photos": 0.1}, "saturated", "50% of its channels"),
        (HALVES, {"over_photos": 0.1}, "saturated", "as a switch: 50% of its channels"),
        (RISING, {"over_photos": 1.0}, "typical", "hardly leaves"),
        (RISING, {"over_photos": 0.2}, "selective", "usually do (0.9 ×"),
        (RISING, {"over_photos": 0.1}, "selective", "unusually far (1.7 ×"),
        (RISING, {}, "varied", "from 0.20 to 0.80"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_gate_is_judged_against_its_own_spread(
    values: np.ndarray, measured: dict[str, float], state: str, words: str, tiny_model: Model
):
    card = card_with(tiny_model, CHANNEL, 0.5, **measured)
    found = judge(GateMap(KIND, values), card, CHANNEL)
    assert found.state == state
    assert state in STATES
    assert words in found.sentence
    assert found.open == pytest.approx(float((values >= 0.75).mean()))
    assert found.shut == pytest.approx(float((values <= 0.25).mean()))


def test_the_distance_from_the_mean_is_in_units_of_the_gates_movement(tiny_model: Model):
    card = card_with(tiny_model, CHANNEL, 0.5, over_photos=0.2)
    near = np.array([0.55, 0.45] * 4, np.float32)
    found = judge(GateMap(KIND, near), card, CHANNEL)
    assert found.moved == pytest.approx(0.25)
    assert found.moved < LITTLE
    assert found.spread == pytest.approx(0.05)
    assert found.usual_spread == 0.1


def test_a_fresh_network_is_called_untrained(make_photo: MakePhoto, make_model: MakeModel):
    card = make_model("cbam").card
    fresh = Model(card, cbam.build("resnet18", "cbam", len(card.labels), width=8))
    spatial = fresh.features(make_photo(), "layer1.0").gates[1]
    assert spatial.judgement is not None
    assert spatial.judgement.state == "untrained"


def test_every_kind_of_gate_is_judged(make_model: MakeModel, make_photo: MakePhoto):
    for attention in WITH_GATES:
        for gate in make_model(attention).features(make_photo()).gates:
            judgement = gate.judgement
            assert judgement is not None
            assert judgement.state in STATES
            assert (judgement.open is None) == (gate.map.kind.use != "multiplied")


def ask(client: TestClient, photo: bytes, **fields: Any) -> Any:
    return client.post("/api/v1/features", files={"image": ("x.jpg", photo)}, data=fields)


def test_the_answer_over_rest_is_the_librarys(
    client: TestClient, jpeg: bytes, tiny_models: Any
) -> None:
    answer = ask(client, jpeg, block="layer2.0", channels="3,1").json()
    assert [each["model"] for each in answer["results"]] == ["tiny-se", "tiny-cbam"]
    for result in answer["results"]:
        model = cbam.load(tiny_models / result["model"])
        found = model.features(jpeg, "layer2.0", channels=[3, 1])
        for sent, own in zip(result["channels"], found.channels, strict=True):
            assert sent["index"] == own.index
            spread = sent["after"]["max"] - sent["after"]["min"]
            assert np.abs(values(sent["after"]) - own.after).max() <= spread / 500 + 1e-5
            np.testing.assert_allclose(sent["weights"], own.weights, atol=1e-5)
        for sent, gate in zip(result["gates"], found.gates, strict=True):
            assert sent["name"] == gate.name
            assert gate.judgement is not None
            assert sent["judgement"]["sentence"] == gate.judgement.sentence
            assert [each["path"] for each in sent["paths"]] == list(gate.paths)
            assert sent["bias"] == pytest.approx(gate.bias)


def test_only_blocks_and_channels_that_there_are_can_be_asked_for(
    client: TestClient, jpeg: bytes
) -> None:
    assert_problem(ask(client, jpeg, block="layer9"), 422, "layer9", "layer4.1")
    assert_problem(ask(client, jpeg, channels="64"), 422, "64", "0 to 63")
    assert_problem(ask(client, jpeg, channels="a"), 422, "channels", "'7, 12-15'")
    assert_problem(ask(client, jpeg, pick="best"), 422, "strongest, open, shut")
    assert_problem(ask(client, jpeg, count="33"), 422, "count")
    assert_problem(ask(client, jpeg, models="tiny-none"), 422, "no gates to look at")


def test_probing_leaves_the_network_as_it_is(make_model: MakeModel, make_photo: MakePhoto):
    model, photo = make_model("cbam"), make_photo()
    before = model.explain(photo)
    state: nn.Module = model.network
    model.features(photo, "layer1.0")
    after = model.explain(photo)
    np.testing.assert_array_equal(before.heatmap, after.heatmap)
    for name, value in model.network.state_dict().items():
        assert_close(value, state.state_dict()[name], rtol=0, atol=0)
