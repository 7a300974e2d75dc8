"""The command: what a user types and reads."""

import json
from pathlib import Path

import pytest
from commanding import Run
from PIL import Image
from typer.testing import CliRunner

from app.cli import main as cli
from cbam.cards.card import Card
from cbam.cards.families import available
from cbam.errors import OptionClash, UnknownName
from cbam.model import load

pytest_plugins = ["commanding"]
runner = CliRunner()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo on disk."""
    path = tmp_path / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


def test_explain_prints_a_table_and_writes_the_sheet(
    photo: Path, tiny_card: Card, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    arguments = ["explain", str(photo), "--model", str(tiny_card.folder), "-o", str(out)]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert tiny_card.name[:10] in result.output
    with Image.open(out) as picture:
        assert picture.size == (256, 256)  # one model: the overlay, as large as the photo


def test_several_models_make_a_sheet(photo: Path, tiny_card: Card, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    folder = str(tiny_card.folder)
    arguments = ["explain", str(photo), "--model", folder, "--model", folder, "-o", str(out)]
    assert runner.invoke(cli.app, arguments).exit_code == 0
    with Image.open(out) as picture:
        assert picture.width > 3 * 256


def test_json_is_the_answer_of_the_api(photo: Path, tiny_card: Card) -> None:
    target = tiny_card.labels[1]
    arguments = ["explain", str(photo), "--json", "--model", str(tiny_card.folder)]
    result = runner.invoke(cli.app, [*arguments, "--target", target])
    answer = json.loads(result.stdout)
    assert answer["target"] == {"index": 1, "label": target, "indices": []}
    assert answer["results"][0]["model"] == tiny_card.name
    assert answer["results"][0]["heatmaps"][0]["label"] == target


def test_changed_gates_are_shown_before_and_after(
    photo: Path, tiny_card: Card, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    arguments = ["explain", str(photo), "--model", str(tiny_card.folder), "--gates"]
    gates = "layer1.0.channel=off, layer4.1.spatial=0.5"
    result = runner.invoke(cli.app, [*arguments, gates, "-o", str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for words in ("layer1.0.channel=off", "layer4.1.spatial=0.5", "->", "not a retraining"):
        assert words in result.output
    with Image.open(out) as picture:
        assert picture.width > 2 * 256  # a sheet: a bare overlay could not say it
    result = runner.invoke(cli.app, [*arguments, gates, "--json"])
    (found,) = json.loads(result.stdout)["results"]
    model = load(tiny_card.folder)
    before = model.explain(photo)
    after = model.explain(photo, before.target.index, gates=gates)
    for name, own in (("before", before), ("after", after)):
        assert found[name]["target_probability"] == pytest.approx(own.target.probability, abs=1e-6)
    assert found["changed"] == dict(after.changed)
    result = runner.invoke(cli.app, [*arguments, "layer9.*=off"])
    assert isinstance(result.exception, UnknownName)


def test_layers_and_the_class_to_contrast_with_can_be_named(photo: Path, tiny_card: Card) -> None:
    arguments = ["explain", str(photo), "--json", "--model", str(tiny_card.folder)]
    options = ["--method", "finercam", "--target", "0", "--versus", tiny_card.labels[2]]
    result = runner.invoke(cli.app, [*arguments, *options, "--layer", "layer3.0,layer4.1"])
    answer = json.loads(result.stdout)
    assert answer["versus"] == [{"index": 2, "label": tiny_card.labels[2], "indices": []}]
    assert answer["results"][0]["layer"] == "layer3.0,layer4.1"
    assert answer["fuse"] == "mean"
    result = runner.invoke(cli.app, [*arguments, "--layer", "layer3.0,layer4.1", "--fuse", "max"])
    assert json.loads(result.stdout)["fuse"] == "max"


def test_an_unknown_class_is_a_sentence_and_status_1(
    run: Run, photo: Path, tiny_card: Card
) -> None:
    status, _, error = run("explain", photo, "--model", tiny_card.folder, "--target", "unicorn")
    assert status == 1
    assert "unicorn" in error
    assert tiny_card.labels[0] in error
    assert "Traceback" not in error


def test_damaged_weights_end_the_server_before_it_starts(run: Run, tiny_card: Card) -> None:
    weights = tiny_card.folder / "weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    folder = str(tiny_card.folder.parent)
    status, _, error = run("serve", "--port", "0", CBAM_LENS_MODELS_FOLDER=folder)
    assert status == 1
    assert "not the ones that its card names" in " ".join(error.split())


def test_models_show_prints_the_card(tiny_card: Card) -> None:
    result = runner.invoke(cli.app, ["models", "show", str(tiny_card.folder)])
    card = json.loads(result.stdout)
    assert card["name"] == tiny_card.name
    assert card["layers"][-1] == "layer4.1"


def test_models_list_names_every_bundled_model() -> None:
    result = runner.invoke(cli.app, ["models", "list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert available()
    for name in available():
        assert name in result.output


def test_evaluate_writes_what_it_measured_to_the_card(tiny_card: Card, tmp_path: Path) -> None:
    folder = tmp_path / "val" / tiny_card.labels[0]
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(folder / "a.png")
    arguments = ["evaluate", str(tiny_card.folder), "--val", str(tmp_path / "val"), "--write"]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    shown = json.loads(runner.invoke(cli.app, ["models", "show", str(tiny_card.folder)]).stdout)
    assert shown["metrics"]["val"]["photos"] == 1


def test_evaluate_at_another_size_leaves_the_card_alone(tiny_card: Card, tmp_path: Path) -> None:
    folder = tmp_path / "val" / tiny_card.labels[0]
    folder.mkdir(parents=True)
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "a.png")
    arguments = ["evaluate", str(tiny_card.folder), "--val", str(tmp_path / "val")]
    before = (tiny_card.folder / "card.toml").read_bytes()
    outputs = [
        runner.invoke(cli.app, [*arguments, "--size-px", size]).output for size in ("32", "96")
    ]
    assert all("calibration_error" in output for output in outputs)
    assert outputs[0] != outputs[1]
    refused = runner.invoke(cli.app, [*arguments, "--size-px", "32", "--write"])
    assert "--size-px" in str(refused.exception)
    assert (tiny_card.folder / "card.toml").read_bytes() == before


def test_boxed_photos_need_their_boxes(tiny_card: Card, tmp_path: Path) -> None:
    arguments = ["evaluate", str(tiny_card.folder), "--boxed", str(tmp_path)]
    result = runner.invoke(cli.app, arguments)
    assert isinstance(result.exception, OptionClash)
    assert "--boxes" in str(result.exception)


def test_a_member_that_the_recipe_lacks_is_refused(tmp_path: Path) -> None:
    recipe = Path(__file__).parent.parent / "recipes" / "imagenette.toml"
    arguments = ["train", str(recipe), "--data", str(tmp_path), "--attention", "magic"]
    result = runner.invoke(cli.app, arguments)
    assert isinstance(result.exception, UnknownName)
    assert "Known: none, se, cbam" in str(result.exception)
