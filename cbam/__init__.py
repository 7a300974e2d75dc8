"""CBAM Lens: see what attention changes.

model = cbam.load("resnet50-cbam-imagenet")
explanation = model.explain("photo.jpg")
explanation.overlay().save("out.png")

network = cbam.build("resnet50", attention="cbam", num_classes=10)
network = cbam.insert(torchvision.models.resnet50())  # the same function, with CBAM in its blocks
"""

from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, build
from cbam.cards.families import available
from cbam.detector import Detector, detect, load
from cbam.detectors import DETECTORS
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS
from cbam.explain.question import Options
from cbam.images.preprocess import Preprocess
from cbam.model import Model, compare
from cbam.trace.insert import insert
from cbam.zoo.wrap import wrap

__all__ = [
    "ATTENTION",
    "BACKBONES",
    "DETECTORS",
    "METHODS",
    "Detector",
    "Explanation",
    "Model",
    "Options",
    "Preprocess",
    "available",
    "build",
    "compare",
    "detect",
    "insert",
    "load",
    "wrap",
]
__version__ = "0.1.0"
