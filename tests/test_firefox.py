"""The main path through the page in a real Firefox: a photo, its answer, views, a language."""

from pathlib import Path

import numpy as np
from app_fixtures import FAMILY
from firefox import DOWN, Tab

pytest_plugins = ["app_fixtures", "browsing", "firefox"]
PHOTO_FIELD = "#photo-form input[type=file][name=image]"
MAPS = ".model-column heat-map canvas"


def painted(tab: Tab, selector: str, number: int) -> list[np.ndarray]:
    """What so many canvases show, none of them blank."""
    tab.count(selector, number)
    paintings = tab.paintings(selector)
    for painting in paintings:
        assert len(np.unique(painting.reshape(-1, 3), axis=0)) > 100  # colours
    return paintings


def test_a_photo_is_answered_explained_and_changed(
    tab: Tab, server: str, jpeg: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(jpeg)
    tab.goto(server)
    tab.choose(PHOTO_FIELD, file)
    before = painted(tab, f"#result[data-photo=''] {MAPS}", len(FAMILY))

    other = ".model-column .prediction[aria-pressed=false]"
    label = tab.evaluate(f"document.querySelector('{other}').value")
    tab.click(other)
    tab.count(f"#result[data-target='{label}']", 1)
    after = painted(tab, MAPS, len(FAMILY))
    assert any((new != old).any() for new, old in zip(after, before, strict=True))

    tab.click(".views [data-view=inside]")
    painted(tab, ".block-large gate-map canvas", 1)
    assert tab.text(".block-large [data-fill=sentence]").endswith(".")

    tab.click(".views [data-view=what-if]")
    tab.click(".by-block > summary")
    tab.press(".gate-control[data-gate='layer1.0.channel'] select", DOWN)  # to "off"
    tab.count(".change", 2)  # both networks that have this gate
    for change in tab.evaluate("[...document.querySelectorAll('.change')].map((e) => e.dataset)"):
        assert change["before"] != change["after"]
    painted(tab, ".change heat-map canvas", 4)

    tab.click(".views [data-view=methods]")
    painted(tab, ".method[data-method=layercam] heat-map canvas", len(FAMILY))

    tab.click(".languages a[hreflang=ko]")
    painted(tab, "html[lang=ko] #result[data-photo=''] .method[data-method=layercam] canvas", 3)
    assert "의 근거로 본 곳" in tab.text(".looked")  # the same photo in the same view
