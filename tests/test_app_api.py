"""The REST API: what each route answers, and how it refuses."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from app_fixtures import (
    BLOCKS,
    FAMILY,
    INPUT_PX,
    LABELS,
    WIDTH,
    assert_problem,
    picture,
    values,
    wait_until_ready,
)
from fastapi.testclient import TestClient

import cbam
from cbam import METHODS

pytest_plugins = ["app_fixtures"]

ROUTES = ("predict", "explain", "heatmap", "compare", "attention")


def ask(client: TestClient, route: str, photo: bytes, **fields: Any) -> Any:
    """POST a photo and form fields to a route of version 1."""
    return client.post(f"/api/v1/{route}", files={"image": ("photo.jpg", photo)}, data=fields)


def explain(client: TestClient, photo: bytes, **fields: Any) -> dict[str, Any]:
    """The answer of /explain, which is a success."""
    answer = ask(client, "explain", photo, **fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def untimed(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without its timings, which differ from call to call."""
    kept = [{k: v for k, v in result.items() if k != "timing_ms"} for result in answer["results"]]
    return {**answer, "results": kept}


# Alive and ready


def test_it_is_alive_at_once_and_ready_once_the_models_are_loaded(
    serve: Callable[..., TestClient], jpeg: bytes, may_load: threading.Event
) -> None:
    client = serve(wait=False)
    try:
        assert client.get("/healthz").json() == {"status": "alive"}
        loading = client.get("/readyz")
        assert_problem(loading, 503, "loaded")
        assert client.get("/api/v1/queue").json()["loading"]
        assert int(loading.headers["retry-after"]) > 0
        assert_problem(ask(client, "explain", jpeg), 503)
    finally:
        may_load.set()
    wait_until_ready(client)
    assert client.get("/readyz").json() == {"status": "ready", "models": list(FAMILY)}
    assert not client.get("/api/v1/queue").json()["loading"]
    assert ask(client, "explain", jpeg).status_code == 200


# What there is


def test_models_lists_the_family_in_order_and_every_card(client: TestClient) -> None:
    answer = client.get("/api/v1/models").json()
    assert answer["families"] == [
        {"name": "tiny", "title": "Tiny", "default": True, "models": list(FAMILY)}
    ]
    assert [model["name"] for model in answer["models"]] == list(FAMILY)
    for model, attention in zip(answer["models"], ("none", "se", "cbam"), strict=True):
        assert model["attention"] == attention
        assert model["family"] == "tiny"
        assert model["backbone"] == "resnet18"
        assert model["classes"] == list(LABELS)
        assert model["input_size"] == INPUT_PX
        assert model["layers"] == list(BLOCKS)
        assert model["blocks"] == ([] if attention == "none" else list(BLOCKS))
        assert model["licence"] == "MIT"
    plain, se, with_cbam = (model["params"] for model in answer["models"])
    assert 0 < plain < se < with_cbam  # gates cost parameters, CBAM's spatial one on top of SE's


def test_methods_lists_the_table(client: TestClient) -> None:
    methods = client.get("/api/v1/methods").json()["methods"]
    assert [method["name"] for method in methods] == list(METHODS)
    for method in methods:
        assert method.pop("versus") is (method["name"] == "finercam")
        ignores = method.pop("ignores_class")
        assert ignores is (method["name"] in ("eigencam", "kpcacam", "randomcam"))
        assert method.pop("groups") is (method["name"] not in ("shapleycam", "finercam"))
        assert set(method) == {"name", "title", "paper", "note", "cost", "cost_class"}
        assert method["paper"].startswith("https://")
        assert all(method.values())


def test_limits_are_those_that_are_set_and_tell_nothing_of_the_machine(
    serve: Callable[..., TestClient], tiny_models: Any
) -> None:
    client = serve(max_upload_mb=3, queue_length=7, top_k_max=4)
    answer = client.get("/api/v1/limits")
    limits = answer.json()
    assert limits["formats"] == ["JPEG", "PNG", "WebP", "HEIC"]
    assert (limits["max_upload_mb"], limits["queue_length"], limits["top_k_max"]) == (3, 7, 4)
    assert limits["max_megapixels"] == 40
    assert str(tiny_models) not in answer.text


# /explain


def test_explain_has_the_documented_shape(client: TestClient, jpeg: bytes) -> None:
    answer = explain(client, jpeg)
    assert set(answer) == {"image", "verdict", "target", "method", "fuse", "versus", "results"}
    assert answer["image"] == {
        "width": 160,
        "height": 120,
        "sha256": hashlib.sha256(jpeg).hexdigest(),
    }
    assert answer["method"] == "gradcam"
    assert answer["versus"] == []
    assert answer["target"] == {
        "index": answer["target"]["index"],
        "label": LABELS[answer["target"]["index"]],
        "indices": [],
    }
    assert [result["model"] for result in answer["results"]] == list(FAMILY)
    for result in answer["results"]:
        assert set(result) == {
            "model",
            "predictions",
            "words",
            "none_of_these",
            "changed",
            "target_probability",
            "layer",
            "view",
            "heatmaps",
            "attention",
            "timing_ms",
        }
        assert result["layer"] == "layer4.1"
        assert result["view"] == {"x0": 0, "y0": 0, "x1": 160, "y1": 120}
        assert set(result["timing_ms"]) == {"decode", "queue", "trunk", "head"}
        assert all(time >= 0 for time in result["timing_ms"].values())
        for prediction in result["predictions"]:
            assert set(prediction) == {"index", "label", "probability"}
            assert LABELS[prediction["index"]] == prediction["label"]
        # These classes have no words: each goes by its label.
        assert [set(word) for word in result["words"]] == [{"word", "probability", "indices"}] * 5
        assert [word["word"] for word in result["words"]] == [
            prediction["label"] for prediction in result["predictions"]
        ]
        for heatmap in result["heatmaps"]:
            assert set(heatmap) == {"index", "label", "map"}


def test_a_map_holds_one_byte_a_cell_between_its_least_and_greatest_value(
    client: TestClient, jpeg: bytes
) -> None:
    for result in explain(client, jpeg)["results"]:
        for heatmap in result["heatmaps"]:
            packed = heatmap["map"]
            assert set(packed) == {"shape", "dtype", "min", "max", "data"}
            assert packed["shape"] == [2, 2]  # 64 px in, a stride of 32
            assert packed["dtype"] == "uint8"
            map_ = values(packed)  # reshapes, so the length is right too
            assert map_.min() == packed["min"] >= 0  # negative evidence is cut off
            assert map_.max() == pytest.approx(packed["max"])


def test_predictions_fall_from_the_most_probable_and_add_up_to_one(
    client: TestClient, jpeg: bytes
) -> None:
    for result in explain(client, jpeg, top_k=10)["results"]:
        probabilities = [prediction["probability"] for prediction in result["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert len({prediction["index"] for prediction in result["predictions"]}) == 10


def test_the_targets_heat_map_comes_first_then_those_of_the_top_classes(
    client: TestClient, jpeg: bytes
) -> None:
    answer = explain(client, jpeg, target="j", top_k=3)
    for result in answer["results"]:
        top = [prediction["label"] for prediction in result["predictions"]]
        expected = ["j", *(label for label in top if label != "j")]
        assert [heatmap["label"] for heatmap in result["heatmaps"]] == expected


def test_by_default_all_models_explain_the_first_ones_top_class(
    client: TestClient, jpeg: bytes
) -> None:
    answer = explain(client, jpeg)
    top = [result["predictions"][0]["index"] for result in answer["results"]]
    assert len(set(top)) > 1, "the models must disagree, or this shows nothing"
    assert answer["target"]["index"] == top[0]
    assert {result["heatmaps"][0]["index"] for result in answer["results"]} == {top[0]}


def test_the_first_model_named_decides_the_default_target(client: TestClient, jpeg: bytes) -> None:
    answer = explain(client, jpeg, models=["tiny-cbam", "tiny-none"])
    assert [result["model"] for result in answer["results"]] == ["tiny-cbam", "tiny-none"]
    assert answer["target"]["index"] == answer["results"][0]["predictions"][0]["index"]


@pytest.mark.parametrize("target", ["3", "d", "D"])
def test_a_target_is_an_index_or_a_label(client: TestClient, jpeg: bytes, target: str) -> None:
    answer = explain(client, jpeg, target=target)
    assert answer["target"] == {"index": 3, "label": "d", "indices": []}
    assert {result["heatmaps"][0]["label"] for result in answer["results"]} == {"d"}
    assert untimed(answer) == untimed(explain(client, jpeg, target="3"))


def test_the_targets_probability_is_that_of_the_predictions(
    client: TestClient, jpeg: bytes
) -> None:
    for target in LABELS:
        for result in explain(client, jpeg, target=target, top_k=10)["results"]:
            said = {each["label"]: each["probability"] for each in result["predictions"]}
            assert result["target_probability"] == said[target]


def test_cbam_shows_both_gates_of_all_eight_blocks(client: TestClient, jpeg: bytes) -> None:
    result = explain(client, jpeg, models="tiny-cbam")["results"][0]
    assert [block["block"] for block in result["attention"]] == list(BLOCKS)
    for block in result["attention"]:
        assert set(block) == {"block", "channel", "spatial"}
        stage = int(block["block"][5])
        assert len(block["channel"]) == WIDTH * 2 ** (stage - 1)
        assert all(0 < value < 1 for value in block["channel"])
        side = INPUT_PX // 2 ** (stage + 1)
        spatial = values(block["spatial"])
        assert spatial.shape == (side, side)
        assert 0 < spatial.min() < spatial.max() < 1


def test_se_shows_its_channel_gates_and_no_spatial_one(client: TestClient, jpeg: bytes) -> None:
    result = explain(client, jpeg, models="tiny-se")["results"][0]
    assert [block["block"] for block in result["attention"]] == list(BLOCKS)
    assert all(block["spatial"] is None for block in result["attention"])
    lengths = [len(block["channel"]) for block in result["attention"]]
    assert lengths == [8, 8, 16, 16, 32, 32, 64, 64]


def test_a_plain_network_shows_no_gates_and_attention_false_leaves_them_out(
    client: TestClient, jpeg: bytes
) -> None:
    assert explain(client, jpeg, models="tiny-none")["results"][0]["attention"] == []
    for result in explain(client, jpeg, attention="false")["results"]:
        assert result["attention"] == []


def test_an_earlier_layer_gives_a_finer_map(client: TestClient, jpeg: bytes) -> None:
    for layer, side in (("layer1.0", 16), ("layer2.0", 8), ("layer3.1", 4), ("layer4.0", 2)):
        for result in explain(client, jpeg, layer=layer)["results"]:
            assert result["layer"] == layer
            assert result["heatmaps"][0]["map"]["shape"] == [side, side]


def test_the_layer_changes_the_map_but_not_what_the_models_say(
    client: TestClient, jpeg: bytes
) -> None:
    late = explain(client, jpeg, target="c")  # each of them has evidence for it at both layers
    early = explain(client, jpeg, target="c", layer="layer2.0")
    for one, other in zip(late["results"], early["results"], strict=True):
        assert [item["index"] for item in one["predictions"]] == [
            item["index"] for item in other["predictions"]
        ]
        assert [item["probability"] for item in one["predictions"]] == pytest.approx(
            [item["probability"] for item in other["predictions"]], abs=2e-5
        )
        for here, there in zip(one["attention"], other["attention"], strict=True):
            assert here["channel"] == pytest.approx(there["channel"], abs=2e-5)
        coarse, fine = (values(each["heatmaps"][0]["map"]) for each in (one, other))
        assert (coarse.shape, fine.shape) == ((2, 2), (8, 8))
        assert min(coarse.max(), fine.max()) > 0
        # Not the late map enlarged: it is hot elsewhere.
        enlarged = np.kron(coarse, np.ones((4, 4)))
        assert np.abs(fine / fine.max() - enlarged / enlarged.max()).max() > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["layer4.1", "layer3.0"])
def test_every_method_answers_at_a_late_and_an_early_layer(
    client: TestClient, jpeg: bytes, method: str, layer: str
) -> None:
    answer = explain(client, jpeg, method=method, layer=layer)
    assert answer["method"] == method
    for result in answer["results"]:
        map_ = values(result["heatmaps"][0]["map"])
        assert np.isfinite(map_).all()
        assert (map_ >= 0).all()


def test_a_method_without_a_closed_form_explains_the_target_only(
    client: TestClient, jpeg: bytes
) -> None:
    for result in explain(client, jpeg, method="layercam", target="b")["results"]:
        assert [heatmap["label"] for heatmap in result["heatmaps"]] == ["b"]


def test_the_classes_that_were_contrasted_with_are_told(client: TestClient, jpeg: bytes) -> None:
    answer = explain(client, jpeg, method="finercam", target="b", versus="d")
    assert answer["versus"] == [{"index": 3, "label": "d", "indices": []}]
    answer = explain(client, jpeg, method="finercam", target="b")
    assert len(answer["versus"]) == 3


def test_the_greatest_of_several_layers_is_nowhere_below_their_mean(
    client: TestClient, jpeg: bytes
) -> None:
    both = {"layer": "layer3.0,layer4.1", "target": "b"}
    mean, most = (explain(client, jpeg, **both, fuse=how) for how in ("mean", "max"))
    assert (mean["fuse"], most["fuse"]) == ("mean", "max")
    above = []
    for low, high in zip(mean["results"], most["results"], strict=True):
        less, more = (values(each["heatmaps"][0]["map"]) for each in (low, high))
        assert (more - less).min() > -0.01  # both in 8 bits
        above.append((more - less).max())
    assert max(above) > 0.1  # not a comparison of zeros


def test_several_layers_are_answered_with_one_map(client: TestClient, jpeg: bytes) -> None:
    repeated = explain(client, jpeg, layer=["layer4.1", "layer3.0"], target="b")
    with_commas = explain(client, jpeg, layer="layer3.0,layer4.1", target="b")
    for one, other in zip(repeated["results"], with_commas["results"], strict=True):
        assert one["layer"] == other["layer"] == "layer3.0,layer4.1"
        assert one["heatmaps"][0]["map"]["shape"] == [64, 64]
        assert one["heatmaps"] == other["heatmaps"]


def test_query_parameters_and_form_fields_mean_the_same(client: TestClient, jpeg: bytes) -> None:
    options = {
        "models": ["tiny-se", "tiny-cbam"],
        "target": "c",
        "method": "layercam",
        "layer": "layer3.1",
        "top_k": "2",
        "attention": "false",
    }
    in_form = explain(client, jpeg, **options)
    in_query = client.post("/api/v1/explain", params=options, files={"image": ("x.jpg", jpeg)})
    assert untimed(in_query.json()) == untimed(in_form)
    assert len(in_form["results"]) == 2


def test_the_same_question_has_the_same_answer(client: TestClient, jpeg: bytes) -> None:
    assert untimed(explain(client, jpeg)) == untimed(explain(client, jpeg))


def test_a_model_named_twice_answers_once(client: TestClient, jpeg: bytes) -> None:
    answer = explain(client, jpeg, models=["tiny-se", "tiny-se"])
    assert [result["model"] for result in answer["results"]] == ["tiny-se"]


def test_a_family_stands_for_its_models_and_empty_fields_for_defaults(
    client: TestClient, jpeg: bytes
) -> None:
    default = untimed(explain(client, jpeg))
    assert untimed(explain(client, jpeg, family="tiny")) == default
    assert untimed(explain(client, jpeg, family="", target="", layer="")) == default


@pytest.mark.parametrize("fields", [{}, {"target": "h"}, {"method": "hirescam"}])
@pytest.mark.parametrize("layer", ["layer4.1", "layer2.1"])
def test_the_answer_equals_the_librarys(
    client: TestClient, jpeg: bytes, tiny_models: Any, fields: dict[str, str], layer: str
) -> None:
    answer = explain(client, jpeg, models="tiny-cbam", layer=layer, **fields)["results"][0]
    own = cbam.load(tiny_models / "tiny-cbam").explain(jpeg, layer=layer, **fields)
    assert [(item["index"], item["label"]) for item in answer["predictions"]] == [
        (item.index, item.label) for item in own.predictions
    ]
    for said, item in zip(answer["predictions"], own.predictions, strict=True):
        assert said["probability"] == pytest.approx(item.probability, abs=1e-6)
    assert answer["target_probability"] == pytest.approx(own.target.probability, abs=1e-6)
    assert len(answer["heatmaps"]) == len(own.heatmaps)
    for said, heatmap in zip(answer["heatmaps"], own.heatmaps, strict=True):
        assert said["index"] == heatmap.index
        step = max(np.ptp(heatmap.map), 1e-6) / 255
        np.testing.assert_allclose(values(said["map"]), heatmap.map, atol=0.51 * step)
    for said, block in zip(answer["attention"], own.attention, strict=True):
        np.testing.assert_allclose(said["channel"], block.channel, atol=1e-5)
        step = np.ptp(block.spatial) / 255
        np.testing.assert_allclose(values(said["spatial"]), block.spatial, atol=0.51 * step)


# /predict


def test_predict_says_what_explain_says(client: TestClient, jpeg: bytes) -> None:
    predicted = ask(client, "predict", jpeg, top_k=4).json()
    explained = explain(client, jpeg, top_k=4)
    assert set(predicted) == {"image", "verdict", "results"}
    assert predicted["image"] == explained["image"]
    for short, long in zip(predicted["results"], explained["results"], strict=True):
        assert set(short) == {
            *("model", "predictions", "words", "none_of_these", "changed", "timing_ms")
        }
        assert short["model"] == long["model"]
        assert short["predictions"] == long["predictions"]
        assert short["words"] == long["words"]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (7, 7), (10, 10), (20, 10)])
def test_top_k_is_the_number_of_predictions_at_most_all_classes(
    client: TestClient, jpeg: bytes, asked: int, given: int
) -> None:
    for result in ask(client, "predict", jpeg, top_k=asked).json()["results"]:
        assert len(result["predictions"]) == given


# Pictures


def test_a_heat_map_is_the_photo_with_the_last_models_map_on_it(
    client: TestClient, jpeg: bytes
) -> None:
    answer = ask(client, "heatmap", jpeg)
    assert answer.headers["content-type"] == "image/png"
    image = picture(answer.content)
    assert (image.format, image.size, image.mode) == ("PNG", (160, 120), "RGB")
    named = ask(client, "heatmap", jpeg, model="tiny-cbam")
    assert answer.content == named.content
    assert answer.content != ask(client, "heatmap", jpeg, model="tiny-none").content


def test_a_heat_map_of_no_opacity_is_the_photo_itself(client: TestClient, jpeg: bytes) -> None:
    clear = picture(ask(client, "heatmap", jpeg, opacity=0).content)
    difference = np.asarray(clear).astype(int) - np.asarray(picture(jpeg))
    assert np.abs(difference).max() <= 1
    opaque = picture(ask(client, "heatmap", jpeg, opacity=1).content)
    assert np.abs(np.asarray(opaque).astype(int) - np.asarray(clear)).max() > 50


def test_a_bare_heat_map_has_the_views_size_and_only_the_maps_colours(
    client: TestClient, jpeg: bytes
) -> None:
    bare = picture(ask(client, "heatmap", jpeg, overlay="false", target="c").content)
    assert (bare.size, bare.mode) == ((160, 120), "RGB")
    map_ = explain(client, jpeg, models="tiny-cbam", target="c")["results"][0]["heatmaps"][0]
    relative = values(map_["map"]) / map_["map"]["max"]
    hottest = np.unravel_index(relative.argmax(), relative.shape)
    corners = np.asarray(bare)[:: bare.height - 1, :: bare.width - 1]  # the 2 x 2 cells' colours
    assert corners[hottest].tolist() == [252, 255, 164]  # inferno's end


@pytest.mark.parametrize("layer", ["layer4.1", "layer2.0"])
def test_the_raw_heat_map_is_the_json_map_enlarged(
    client: TestClient, jpeg: bytes, layer: str
) -> None:
    fields = {"target": "c", "layer": layer}
    raw = picture(ask(client, "heatmap", jpeg, raw="true", model="tiny-se", **fields).content)
    assert (raw.mode, raw.size) == ("L", (160, 120))
    map_ = values(
        explain(client, jpeg, models="tiny-se", **fields)["results"][0]["heatmaps"][0]["map"]
    )
    assert map_.max() > 0
    relative = torch.from_numpy(map_ / map_.max())[None, None]
    enlarged = torch.nn.functional.interpolate(relative, size=(120, 160), mode="bilinear")[0, 0]
    np.testing.assert_allclose(np.asarray(raw), enlarged.numpy() * 255, atol=1.6)


def test_compare_is_one_sheet_with_the_photo_and_every_model(
    client: TestClient, jpeg: bytes
) -> None:
    answer = ask(client, "compare", jpeg)
    assert answer.headers["content-type"] == "image/png"
    three = picture(answer.content)
    one = picture(ask(client, "compare", jpeg, models="tiny-cbam").content)
    assert three.format == "PNG"
    column = (three.width - one.width) / 2  # photo + 3 columns against photo + 1
    assert column > 150
    assert three.width == pytest.approx(4 * column, abs=30)
    assert three.height == one.height
    assert np.asarray(three).std() > 10


def test_compare_follows_the_target(client: TestClient, jpeg: bytes) -> None:
    sheets = {ask(client, "compare", jpeg, target=target).content for target in ("a", "b")}
    assert len(sheets) == 2


def test_attention_is_json_or_a_picture_as_the_client_accepts(
    client: TestClient, jpeg: bytes
) -> None:
    answer = ask(client, "attention", jpeg).json()
    explained = explain(client, jpeg)
    assert set(answer) == {"image", "results"}
    for short, long in zip(answer["results"], explained["results"], strict=True):
        assert set(short) == {"model", "view", "attention", "changed"}
        assert short == {key: long[key] for key in short}
    sheet = client.post(
        "/api/v1/attention", files={"image": ("x.jpg", jpeg)}, headers={"Accept": "image/png"}
    )
    assert sheet.headers["content-type"] == "image/png"
    assert np.asarray(picture(sheet.content)).std() > 10


def test_the_attention_sheet_of_a_plain_network_says_that_there_is_none(
    client: TestClient, jpeg: bytes
) -> None:
    sheet = client.post(
        "/api/v1/attention",
        files={"image": ("x.jpg", jpeg)},
        data={"models": "tiny-none"},
        headers={"Accept": "image/png"},
    )
    assert sheet.status_code == 200
    assert np.asarray(picture(sheet.content)).min() < 100  # there is text on it


# Refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "gradcan"}, ("gradcan", *METHODS)),
        ({"models": "resnet51"}, ("resnet51", *FAMILY)),
        ({"family": "huge"}, ("huge", "tiny")),
        ({"layer": "layer9.0"}, ("layer9.0", *BLOCKS)),
        ({"target": "zebra"}, ("zebra", "0 a", "9 j")),
        ({"target": "10"}, ("10", "9 j")),
        ({"target": "-1"}, ("-1", "9 j")),
        ({"colour": "red"}, ("colour", "/docs")),
        ({"top_k": "0"}, ("top_k", "'0'", "greater than or equal to 1")),
        ({"top_k": "21"}, ("top_k", "21", "20")),
        ({"top_k": "many"}, ("top_k", "many", "integer")),
        ({"attention": "perhaps"}, ("attention", "perhaps")),
        ({"target": "x" * 201}, ("target", "200")),
    ],
)
def test_a_field_that_cannot_be_used_is_refused_with_what_would_work(
    client: TestClient, jpeg: bytes, fields: dict[str, str], words: tuple[str, ...]
) -> None:
    assert_problem(ask(client, "explain", jpeg, **fields), 422, *words)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_refuses_a_field_it_does_not_know(
    client: TestClient, jpeg: bytes, route: str
) -> None:
    assert_problem(ask(client, route, jpeg, bogus="1"), 422, "bogus")
    in_query = client.post(f"/api/v1/{route}?bogus=1", files={"image": ("x.jpg", jpeg)})
    assert_problem(in_query, 422, "bogus")


@pytest.mark.parametrize("field", ["method", "models", "family", "layer", "target"])
def test_a_very_long_value_is_not_sent_back_whole(
    client: TestClient, jpeg: bytes, field: str
) -> None:
    problem = assert_problem(ask(client, "explain", jpeg, **{field: "m" * 3000}), 422, "mmm")
    assert len(problem["detail"]) < 1000


def test_a_heat_map_is_of_one_model_with_an_opacity_up_to_one(
    client: TestClient, jpeg: bytes
) -> None:
    assert_problem(
        ask(client, "heatmap", jpeg, models=["tiny-se", "tiny-cbam"]), 422, "one model; 2"
    )
    assert_problem(ask(client, "heatmap", jpeg, opacity="1.5"), 422, "opacity", "1")
    assert_problem(ask(client, "heatmap", jpeg, opacity="nan"), 422, "opacity")


def test_a_path_or_method_that_does_not_exist_is_a_problem_too(client: TestClient) -> None:
    assert_problem(client.get("/api/v1/nothing"), 404)
    refused = client.get("/api/v1/explain")
    assert_problem(refused, 405)
    assert refused.headers["allow"] == "POST"
