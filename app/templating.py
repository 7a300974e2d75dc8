"""Where templates and static files lie, and what fills the templates."""

import base64
import io
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from PIL import Image


def bundled(name: str) -> Path:
    """A folder that ships with the app: inside the package in a wheel, next to it in a checkout."""
    packaged = Path(str(files("app"))) / "_bundled" / name
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / name


@cache
def templates() -> Environment:
    """The templates. Each is rendered with `t`, the words of a language: see app/words.py."""
    environment = Environment(
        loader=FileSystemLoader(bundled("templates")),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )
    # The pages are UTF-8: a Korean syllable takes half of what its escape takes.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "ensure_ascii": False}
    return environment


def uri(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> str:
    """A picture as a data: URI; `quality` is a JPEG's."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
