"""The usual way, which tests/test_concurrency.py shows to fail: hooks on one shared network.

Run as a program, because it may take its process along: `python hooked.py MODELS_FOLDER THREADS`.
Asks the same questions one by one and then at once, each with a GradCAM of its own from the
grad-cam package around one shared network, and prints as JSON how many answers were wrong or
raised.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from app_fixtures import photo
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import cbam

METHODS = {"gradcam": GradCAM, "hirescam": HiResCAM}


def main(folder: str, threads: int) -> None:
    """Print {"asked", "wrong", "raised"}."""
    torch.set_num_threads(1)
    model = cbam.load(Path(folder) / "tiny-cbam")
    network = model.network.requires_grad_(True)  # the package asks for it
    layer = network.get_submodule("layer4.1")
    images = [model.card.preprocess(photo(90, 70, seed)).unsqueeze(0) for seed in range(8)]
    questions = [
        (image, index, method) for image in range(8) for index in range(4) for method in METHODS
    ]

    def ask(question: tuple[int, int, str]) -> np.ndarray | None:
        image, index, method = question
        try:
            with METHODS[method](model=network, target_layers=[layer]) as cam:
                target = [ClassifierOutputTarget(index)]
                return np.asarray(cam(input_tensor=images[image], targets=target))
        except Exception:
            return None

    one_by_one = [ask(question) for question in questions]
    with ThreadPoolExecutor(threads) as pool:
        at_once = list(pool.map(ask, questions))
    wrong = raised = 0
    for mine, expected in zip(at_once, one_by_one, strict=True):
        assert expected is not None
        raised += mine is None
        wrong += mine is not None and bool(abs(mine - expected).max() > 1e-3)
    counted = {"asked": len(questions), "wrong": wrong, "raised": raised}
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
