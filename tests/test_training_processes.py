"""A training by two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_training_views import COLOURS, write_parquet

import cbam

ROOT = Path(cbam.__file__).parent.parent
RECIPE = """
family = "squares"
title = "Squares"
data = "coloured squares"
licence = "MIT"
attention = ["cbam"]
backbone_options = { width = 8 }
phases = [{ image_size_px = 32, epochs = 12 }]
batch_size = 8
learning_rate = 0.01  # at 0.02 it diverges where BatchNorm sees one colour
warmup_epochs = 1
label_smoothing = 0.0
ema_decay = 0.5
precision = "no"
test_size_px = 32

[labels]
n1 = "red"
n2 = "blue"
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_two_processes_train_one_model(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if kind == "parquet":
        write_parquet(data / "train.parquet", [32] * 48)
    else:
        for folder, colour in COLOURS.items():
            (data / folder).mkdir()
            for number in range(24):
                Image.new("RGB", (40, 40), colour).save(data / folder / f"{number}.png")
    (tmp_path / "squares.toml").write_text(RECIPE, encoding="utf-8")
    # `accelerate launch --multi_gpu` does this; several CPU processes it starts by MPI only.
    command = "torch.distributed.run --standalone --nproc_per_node 2 -m app.cli train squares.toml"
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--data", "data", "--workers", "0"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("12/12") == 1  # one of them speaks
    assert done.stdout.count("wrote") == 1
    state = torch.load(
        tmp_path / "runs" / "resnet18-cbam-squares" / "checkpoint.pt", weights_only=True
    )
    # 48 photos, two processes of 8 a step: 3 steps an epoch, 12 epochs.
    assert state["schedule"]["last_epoch"] == 36
    model = cbam.load(tmp_path / "models" / "resnet18-cbam-squares")
    for colour, label in zip(COLOURS.values(), ("red", "blue"), strict=True):
        assert model.explain(Image.new("RGB", (40, 40), colour)).target.label == label
