"""CBAM Lens: see what attention changes.

model = cbam.load("resnet50-cbam-imagenet")
explanation = model.explain("photo.jpg")
explanation.overlay().save("out.png")

network = cbam.build("resnet50", attention="cbam", num_classes=10)
"""

from cbam.attention import ATTENTION
from cbam.backbones import BACKBONES, build
from cbam.cards.families import available
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS
from cbam.explain.question import Options
from cbam.model import Model, compare, load

__all__ = [
    "ATTENTION",
    "BACKBONES",
    "METHODS",
    "Explanation",
    "Model",
    "Options",
    "available",
    "build",
    "compare",
    "load",
]
__version__ = "0.1.0"
