"""The ablation: one recipe for all variants, resumed, summarised, and honest about noise."""

import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cbam
from app.cli.main import app
from cbam.attention import ATTENTION
from cbam.errors import BadData, MissingFile, OptionClash, UnknownName
from cbam.training import ablation
from cbam.training import ablation_study as study
from cbam.training.ablation_study import VARIANTS, Ablation, Run, Summary, summarise

ROOT = Path(cbam.__file__).parent.parent
TOML = """
family = "squares"
title = "Squares"
data = "coloured squares"
licence = "MIT"
backbone_options = { width = 8 }
phases = [{ image_size_px = 32, epochs = 1 }]
batch_size = 4
warmup_epochs = 0
ema_decay = 0.0
precision = "no"
test_size_px = 32
seeds = 2
photo_px = 40

[labels]
red = "red"
blue = "blue"
"""


def write_photos(path: Path, each: int, seed: int) -> Path:
    """Noisy photos of several sizes, and some of a class that the recipe does not have."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, colour in (("red", (220, 40, 40)), ("blue", (40, 40, 220)), ("green", (0, 200, 0))):
        for number in range(each):
            pixels = rng.integers(90, 160, (44 + number, 50, 3), dtype=np.uint8)
            pixels[8:30, 8:30] = colour
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append({"name": f"{name}{number}", "wnid": name, "png": buffer.getvalue()})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Ablation:
    (tmp_path / "squares.toml").write_text(TOML, encoding="utf-8")
    return study.read_ablation(tmp_path / "squares.toml")


@pytest.fixture
def photos(plan: Ablation, tmp_path: Path) -> ablation.Photos:
    training = write_photos(tmp_path / "train.parquet", 6, 0)
    return ablation.read_photos(plan, training, write_photos(tmp_path / "val.parquet", 3, 1))


def test_every_system_of_tables_1_to_3_and_every_module_is_a_variant():
    assert {variant.attention for variant in VARIANTS.values()} == set(ATTENTION)
    for variant in VARIANTS.values():
        with torch.device("meta"):
            cbam.build(
                "resnet18", variant.attention, attention_options=dict(variant.options), width=8
            )
    assert VARIANTS["spatial-first"].options == {"order": "spatial-first"}
    assert VARIANTS["squeeze-conv"].options == {"squeeze": "conv"}  # kernel 7, the default
    assert VARIANTS["cbam"].options == {}


def test_photos_of_other_classes_are_left_out_and_all_are_squares(photos: ablation.Photos):
    assert photos.training.photos.shape == (12, 3, 40, 40)
    assert photos.test.shape == (6, 3, 40, 40)
    assert photos.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_class_without_a_photo_is_refused(plan: Ablation, tmp_path: Path):
    more = plan.model_copy(update={"labels": {**plan.labels, "pink": "pink"}})
    source = write_photos(tmp_path / "train.parquet", 1, 0)
    with pytest.raises(BadData, match="no photo of pink"):
        ablation.read_photos(more, source, source)


def test_runs_go_seed_by_seed_are_kept_and_not_done_again(
    plan: Ablation, photos: ablation.Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results, variants = tmp_path / "results" / "a.jsonl", ["plain", "se", "channel-avg"]
    said: list[str] = []
    first = ablation.study(plan, photos, results, tmp_path / "runs", variants, said.append)
    assert [(run.variant, run.seed) for run in first] == [
        (name, seed) for seed in (0, 1) for name in variants
    ]
    assert len(results.read_text(encoding="utf-8").splitlines()) == len(said) == 6
    by = {(run.variant, run.seed): run for run in first}
    for seed in (0, 1):  # one network, one recipe, one order of the data: one result
        se, channel = by["se", seed], by["channel-avg", seed]
        assert (se.training_loss, se.accuracy) == (channel.training_loss, channel.accuracy)
        assert se.parameters == channel.parameters > by["plain", seed].parameters
        assert by["plain", seed].held_accuracy == by["plain", seed].accuracy
    assert by["se", 0].training_loss != by["se", 1].training_loss

    def never(*_: Any) -> Run:
        raise AssertionError("a finished run is not done again")

    monkeypatch.setattr(ablation, "one_run", never)
    again = ablation.study(plan, photos, results, tmp_path / "runs", variants, said.append)
    assert again == first


def test_runs_of_another_recipe_or_other_data_are_not_mixed_in(
    plan: Ablation, photos: ablation.Photos, tmp_path: Path
):
    common = ablation.digest(plan, photos)
    more_seeds = plan.model_copy(update={"seeds": 9})
    assert ablation.digest(more_seeds, photos) == common  # runs can be added
    other = plan.model_copy(update={"learning_rate": 0.1})
    assert ablation.digest(other, photos) != common
    fewer = replace(photos, test=photos.test[:5])
    assert ablation.digest(plan, fewer) != common
    results = tmp_path / "a.jsonl"
    lines = [run("plain", 0, 0.5, recipe=common), run("plain", 1, 0.6, recipe="another")]
    results.write_text("".join(json.dumps(asdict(each)) + "\n" for each in lines))
    assert study.finished(results, common) == lines[:1]
    assert study.finished(tmp_path / "none.jsonl", common) == []


def test_an_unknown_variant_is_refused(plan: Ablation, photos: ablation.Photos, tmp_path: Path):
    with pytest.raises(UnknownName, match=r"'bum'.*plain, se"):
        ablation.study(plan, photos, tmp_path / "a.jsonl", tmp_path, ["bum"])


def run(variant: str, seed: int, accuracy: float, held: float = 0.0, recipe: str = "r") -> Run:
    return Run(recipe, variant, seed, accuracy, held, 1.0, 1000, 100, 1.0)


def test_pairs_of_one_seed_are_compared_and_what_is_noise_is_called_noise():
    accuracies = {
        "plain": (0.50, 0.60, 0.70),
        "se": (0.51, 0.61, 0.71),  # always 0.01 better, whatever the seed does
        "cbam": (0.60, 0.50, 0.73),  # better on average, by chance
    }
    runs = [
        run(name, s, a, a - 0.05) for name, row in accuracies.items() for s, a in enumerate(row)
    ]
    plain, se, with_cbam = summarise(runs)
    assert (plain.mean, plain.spread) == (pytest.approx(0.6), pytest.approx(0.1))
    assert se.difference == pytest.approx(0.01)
    assert se.beyond_noise
    # differences 0.10, -0.10, 0.03: mean 0.01, deviation 0.1015, t(2) = 4.303
    half = 4.3027 * math.sqrt((0.09**2 + 0.11**2 + 0.02**2) / 2) / math.sqrt(3)
    assert (with_cbam.low, with_cbam.high) == (
        pytest.approx(0.01 - half, abs=1e-4),
        pytest.approx(0.01 + half, abs=1e-4),
    )
    assert not with_cbam.beyond_noise
    assert with_cbam.p > 0.5
    assert with_cbam.held == pytest.approx(-0.05)
    assert study.verdict(runs).startswith("Beyond noise differ from the plain network: SE.")
    assert "No variant differs" in study.verdict([each for each in runs if each.variant != "se"])


def test_one_run_of_a_variant_proves_nothing():
    found: list[Summary] = summarise([run("plain", 0, 0.5), run("cbam", 0, 0.9)])
    assert not found[1].beyond_noise
    assert found[1].p == 1


def test_what_runs_cannot_say_is_none_in_the_table_and_a_gap_in_markdown():
    """Three plain runs; SE with all seeds, CBAM with one of them, GC with a seed of its own."""
    runs = [run("plain", s, a) for s, a in enumerate((0.5, 0.6, 0.7))]
    runs += [run("se", s, a, 0.5) for s, a in enumerate((0.52, 0.63, 0.71))]
    runs += [run("cbam", 0, 0.6), run("gc", 7, 0.4), run("gc", 8, 0.5)]
    plain, se, with_cbam, gc = study.table(runs)
    assert (plain["difference"], plain["interval"], plain["held"]) == (None, None, None)
    assert se["difference"] == pytest.approx(0.02)
    assert se["interval"][0] < 0.02 < se["interval"][1]
    assert se["held"] == pytest.approx(-0.12)
    assert (with_cbam["difference"], with_cbam["interval"]) == (pytest.approx(0.1), None)
    assert (gc["runs"], gc["difference"], gc["p"], gc["beyond_noise"]) == (2, None, None, False)
    lines = study.as_markdown(runs).splitlines()
    assert "| SE | 1,000 | 3 | 62.0% | 9.5 | +2.0 (-0.5 to +4.5) |" in lines[3]
    assert "| 60.0% |  | +10.0 |  |" in lines[4]
    assert "| GC | 1,000 | 2 | 45.0% | 7.1 |  |  |" in lines[5]


def test_the_command_measures_runs_and_summarises(tmp_path: Path, plan: Ablation):
    data, test = tmp_path / "train.parquet", tmp_path / "val.parquet"
    write_photos(data, 4, 0)
    write_photos(test, 2, 1)
    given = ["ablate", str(tmp_path / "squares.toml"), "--data", str(data), "--test", str(test)]
    given += ["--results", str(tmp_path / "a.jsonl"), "--runs", str(tmp_path / "runs")]
    given += ["--variant", "plain", "--variant", "gc"]
    said = CliRunner().invoke(app, [*given, "--measure"], catch_exceptions=False).output
    assert "4 runs of 1 epochs" in said
    assert not (tmp_path / "a.jsonl").exists()
    said = CliRunner().invoke(app, given, catch_exceptions=False).output
    assert "| GC |" in said
    short = [*given[:2], "--results", str(tmp_path / "a.jsonl"), "--summary"]  # without the photos
    again = CliRunner().invoke(app, short, catch_exceptions=False).output
    assert again.strip() in said
    with pytest.raises(OptionClash, match="needs --data and --test"):
        CliRunner().invoke(app, given[:2], catch_exceptions=False)
    with pytest.raises(MissingFile, match="no finished runs"):
        CliRunner().invoke(app, [*given[:2], "--summary"], catch_exceptions=False)


def test_the_published_table_is_what_its_results_say():
    runs = study.latest(ROOT / "recipes" / "ablation-small.jsonl")
    text = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    assert study.as_markdown(runs) in text
    assert study.verdict(runs) in text
    assert f"{len(runs)} runs" in text


@pytest.mark.parametrize("name", ["ablation", "ablation-small"])
def test_the_projects_recipes_can_be_read(name: str):
    found = study.read_ablation(ROOT / "recipes" / f"{name}.toml")
    assert found.seeds >= 3
    assert len(found.labels) == (200 if name == "ablation" else 58)
    assert found.finish == []
