"""Back ends: the same answers, from any thread, in any batch; and which one is chosen."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from app.main import create_app
from app.routes.answers import model_info
from app.settings import Settings
from cbam.attention import ATTENTION
from cbam.backends import choose as backends
from cbam.backends.choose import BACKENDS, TOLERANCE, Backend, Parity, parity
from cbam.backends.pytorch import OnGPU
from cbam.cards.card import write_card
from cbam.cards.families import available
from cbam.errors import NotAvailable, UnknownName
from cbam.images.decode import decode
from cbam.model import Model, load
from cbam.trace.cut import Cut, cut_at
from cbam.trace.intervene import Change

GALLERY = Path(__file__).parent.parent / "static" / "gallery"
HERE = [name for name, backend in BACKENDS.items() if not backend.missing()]
EXACT = [name for name in HERE if BACKENDS[name].exact]
WITH_GATES = [name for name, record in ATTENTION.items() if record.gates]
MakeModel = Callable[..., Model]


@pytest.fixture(autouse=True)
def nothing_is_known_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test of AUTO measures anew."""
    monkeypatch.setattr(backends, "_fastest", {})


def images(n: int = 2, side_px: int = 64, seed: int = 5) -> Tensor:
    pictures = torch.randn(n, 3, side_px, side_px, generator=torch.Generator().manual_seed(seed))
    return pictures.to(memory_format=torch.channels_last)


def cut_of(model: Model) -> Cut:
    """The plain cut behind the last block."""
    return cut_at(model.network, model.layers[-1])


def assert_alike(fast: Cut, plain: Cut, pictures: Tensor) -> None:
    """Both trunks give the same activation and gate maps, up to rounding."""
    activation, maps = fast.run_trunk(pictures)
    expected, expected_maps = plain.run_trunk(pictures)
    torch.testing.assert_close(activation, expected, atol=1e-4, rtol=1e-4)
    assert list(maps) == list(expected_maps)
    for gate, value in maps.items():
        torch.testing.assert_close(value, expected_maps[gate], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["numba", "openvino"])
def test_what_is_installed_is_among_those_tried(name: str):
    assert name in EXACT


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_back_end_answers_as_the_plain_trunk(
    make_model: MakeModel, name: str, attention: str
):
    plain = cut_of(make_model(attention))
    fast, chosen = backends.accelerate(plain, name, 64)
    assert chosen == name
    found = parity(plain, fast, images(4))
    assert found, found
    assert_alike(fast, plain, images(1))


@pytest.mark.parametrize("name", HERE)
def test_a_batch_of_any_size_is_answered_image_by_image(make_model: MakeModel, name: str):
    fast, _ = backends.accelerate(cut_of(make_model("cbam")), name, 64)
    eight = images(8)
    tolerance = 1e-4 if BACKENDS[name].exact else 0.05
    whole, whole_maps = fast.run_trunk(eight)
    for size in (1, 3, 8):
        activation, maps = fast.run_trunk(eight[:size])
        assert len(activation) == size
        assert (activation - whole[:size]).abs().max() < tolerance
        assert (maps["layer1.0.spatial"] - whole_maps["layer1.0.spatial"][:size]).abs().max() < (
            tolerance
        )


@pytest.mark.parametrize("name", EXACT)
def test_threads_do_not_meet_in_a_back_end(make_model: MakeModel, name: str):
    model = make_model("cbam", backend=name)
    cut = model.cut()
    asked = [images(1 + seed % 3, seed=seed) for seed in range(8)]
    alone = [cut.run_trunk(each) for each in asked]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(cut.run_trunk, asked * 4))
    for (activation, maps), (expected, expected_maps) in zip(together, alone * 4, strict=True):
        torch.testing.assert_close(activation, expected, atol=1e-5, rtol=1e-5)
        for gate, value in maps.items():
            torch.testing.assert_close(value, expected_maps[gate], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HERE)
def test_an_answer_stays_what_it_was_when_the_next_is_computed(make_model: MakeModel, name: str):
    cut = make_model("cbam", backend=name).cut()
    activation, maps = cut.run_trunk(images(seed=1))
    before = [value.clone() for value in (activation, *maps.values())]
    cut.run_trunk(images(seed=2))
    assert all(
        torch.equal(now, then)
        for now, then in zip((activation, *maps.values()), before, strict=True)
    )


@pytest.mark.parametrize("name", HERE)
def test_a_model_in_a_back_end_explains(make_model: MakeModel, make_photo: Any, name: str):
    model = make_model("cbam", backend=name)
    assert model.backend == name
    found = model.explain(make_photo(), method="gradcam++")
    plain = make_model("cbam").explain(make_photo(), method="gradcam++")
    assert len(found.attention) == 8
    assert abs(found.predictions[0].probability - plain.predictions[0].probability) < (
        1e-3 if BACKENDS[name].exact else 0.1
    )
    earlier = model.explain(make_photo(), layer="layer2.0")
    assert earlier.layer == "layer2.0"
    assert len(earlier.attention) == 8


@pytest.mark.parametrize("attention", WITH_GATES)
def test_openvino_runs_changed_gates_in_the_trunk_of_the_others(
    make_model: MakeModel, attention: str
):
    fast, plain = make_model(attention, backend="openvino"), make_model(attention)
    gate, *_, last = fast.gates
    shape = fast.gates[last].shape
    painted = torch.where(torch.rand(shape) < 0.5, torch.rand(shape), torch.nan)
    each = torch.rand(3, *fast.gates[gate].shape)  # a photo's own
    paths = fast.gates[gate].paths
    asked = [
        {gate: Change.held(0.4), last: Change.strength(0.5, 1.0)},
        {gate: Change.held(each), last: Change.painted(painted)},
    ] + [{gate: Change.path(name, paths)} for name in paths]
    for changes in asked:
        assert_alike(fast.cut(None, changes), plain.cut(None, changes), images(3))
    whole = fast.cut().trunk
    assert fast.cut(None, asked[0]).trunk.part is whole.part  # type: ignore[union-attr]
    assert_alike(fast.cut(), plain.cut(), images(1))


def test_openvino_sends_values_larger_than_a_map_through_the_plain_trunk(make_model: MakeModel):
    fast, plain = make_model("cbam", backend="openvino"), make_model("cbam")
    channels, *_ = fast.gates["layer1.0.channel"].shape
    _, *sides = fast.gates["layer1.0.spatial"].shape
    larger = {"layer1.0.spatial": Change.held(torch.rand(channels, *sides))}
    cut = fast.cut(None, larger)
    assert cut.run_trunk(images(2))[1]["layer1.0.spatial"].shape == (2, channels, *sides)
    assert_alike(cut, plain.cut(None, larger), images(2))


def test_openvino_sends_another_size_of_image_through_the_plain_trunk(make_model: MakeModel):
    plain = cut_of(make_model("cbam"))
    fast, _ = backends.accelerate(plain, "openvino", 64)
    assert torch.equal(fast.run_trunk(images(1, 96))[0], plain.run_trunk(images(1, 96))[0])
    assert not torch.equal(fast.run_trunk(images(1, 64))[0], plain.run_trunk(images(1, 64))[0])


def test_openvino_computes_in_float32_whatever_the_cpu_likes_best(make_model: MakeModel):
    fast, _ = backends.accelerate(cut_of(make_model("cbam")), "openvino", 64)
    compiled: Any = fast.trunk._compiled
    assert "f32" in str(compiled.get_property("INFERENCE_PRECISION_HINT")) or "float32" in str(
        compiled.get_property("INFERENCE_PRECISION_HINT")
    )


def test_bf16_says_that_it_is_approximate_and_is(make_model: MakeModel):
    assert not BACKENDS["eager-bf16"].exact
    assert "approximate" in BACKENDS["eager-bf16"].title
    plain = cut_of(make_model("cbam"))
    fast, _ = backends.accelerate(plain, "eager-bf16", 64)
    assert 1e-6 < parity(plain, fast, images(4)).logits < 0.1
    assert fast.run_trunk(images(1))[0].dtype == torch.float32


def test_auto_tries_exact_ones_alone_and_numba_only_where_openvino_is_missing(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    timed = slowest_is(monkeypatch, "eager")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_model("cbam", backend="auto").backend == "openvino"
    absent = replace(BACKENDS["openvino"], missing=lambda: "not here")
    monkeypatch.setitem(BACKENDS, "openvino", absent)
    assert make_model("cbam", backend="auto").backend == "numba"
    assert timed == [{"openvino", "eager"}, {"numba", "eager"}]


def test_the_gpus_back_end_is_refused_where_there_is_no_gpu(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotAvailable, match="no CUDA GPU.*eager"):
        make_model("cbam", backend="compile")
    with pytest.raises(NotAvailable, match="no CUDA GPU"):
        make_model("cbam", backend="cuda")


def test_the_gpus_back_end_brings_its_outputs_home(make_model: MakeModel):
    plain = cut_of(make_model("cbam"))
    compiled: list[nn.Module] = []

    def compiler(trunk: nn.Module) -> nn.Module:
        compiled.append(trunk)
        return trunk

    trunk = OnGPU(plain.trunk, images(), {}, device="cpu", compiler=compiler)
    assert len(compiled) == 1
    assert parity(plain, replace(plain, trunk=trunk), images())


def test_an_unknown_back_end_is_refused_with_those_that_there_are(make_model: MakeModel):
    with pytest.raises(UnknownName, match="'tensorrt'.*auto, eager, eager-bf16, numba, openvino"):
        make_model("cbam", backend="tensorrt")


@pytest.mark.parametrize(
    ("name", "needed"), [("numba", r"cbam-lens\[numba\]"), ("openvino", "openvino")]
)
def test_without_its_package_the_error_says_how_to_get_it(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, name: str, needed: str
):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match=f"pip install {needed}`"):
        make_model("cbam", backend=name)


class Wrong(nn.Module):
    """A back end whose answers are off."""

    def __init__(self, trunk: nn.Module, images: Tensor, folded: Any) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        activation, *maps = self.trunk(images)
        return (activation * 1.01, *maps)


def broken(trunk: nn.Module, images: Tensor, folded: Any) -> nn.Module:
    raise RuntimeError("no such instruction on this CPU")


def slowest_is(monkeypatch: pytest.MonkeyPatch, slowest: str) -> list[set[str]]:
    """Let one be slow and the others fast, without a clock; which ones were timed, each time."""
    timed: list[set[str]] = []

    def seconds(cuts: dict[str, Cut], images: Tensor) -> dict[str, float]:
        timed.append(set(cuts))
        return {name: 0.002 if name == slowest else 0.001 for name in cuts}

    monkeypatch.setattr(backends, "_seconds", seconds)
    return timed


def replaced(monkeypatch: pytest.MonkeyPatch, make: Any, slowest: str = "eager") -> list[set[str]]:
    """AUTO may choose between this one and eager; which ones were timed, each time."""
    mine = Backend("a test's", True, lambda: "", make)
    monkeypatch.setattr(backends, "BACKENDS", {"eager": BACKENDS["eager"], "fast": mine})
    return slowest_is(monkeypatch, slowest)


@pytest.mark.parametrize(
    ("make", "reason"), [(Wrong, "answers differ"), (broken, "no such instruction")]
)
def test_auto_passes_over_what_fails_its_check_and_says_why(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Any,
    reason: str,
):
    replaced(monkeypatch, make)
    assert make_model("cbam", backend="auto").backend == "eager"
    assert reason in caplog.text


@pytest.mark.parametrize("slowest", ["eager", "fast"])
def test_auto_takes_the_fastest_that_answers_right_and_says_the_times(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    slowest: str,
):
    caplog.set_level("INFO", logger="cbam_lens")
    replaced(monkeypatch, BACKENDS["eager"].make, slowest)
    fastest = "fast" if slowest == "eager" else "eager"
    assert make_model("cbam", backend="auto").backend == fastest
    assert f"is {fastest}: " in caplog.text
    assert f"{slowest} 2.0 ms" in caplog.text
    assert f"{fastest} 1.0 ms" in caplog.text


@pytest.mark.parametrize("slowest", ["eager", "fast"])
def test_what_auto_chose_for_the_first_of_a_family_holds_for_the_others(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, slowest: str
):
    timed = replaced(monkeypatch, BACKENDS["eager"].make, slowest)
    models = [make_model(attention, backend="auto") for attention in ("none", "se", "none")]
    first = models[0].backend
    slowest_is(monkeypatch, first)  # if it were asked again, it would choose the other
    assert [model.backend for model in models] == [first] * 3
    assert timed == [{"eager", "fast"}]
    other_size = make_model("none", size_px=96, backend="auto")
    assert other_size.backend != first


def test_a_member_for_which_the_familys_choice_answers_wrong_runs_eagerly(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    made = iter([BACKENDS["eager"].make, Wrong])
    replaced(monkeypatch, lambda *given: next(made)(*given))
    assert [make_model("cbam", backend="auto").backend for _ in range(2)] == ["fast", "eager"]
    assert "answers differ" in caplog.text


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The caller computes in other than a new thread's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_auto_makes_back_ends_while_the_caller_goes_on(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
):
    allowed = threading.Event()
    made_with: list[int] = []

    def slow(*given: Any) -> nn.Module:
        assert allowed.wait(30)
        made_with.append(torch.get_num_threads())
        return BACKENDS["eager"].make(*given)

    replaced(monkeypatch, slow)
    model = make_model("cbam", backend="auto")  # is there before `slow` returns
    assert not made_with
    allowed.set()
    assert model.backend == "fast"
    assert made_with == [2]


@pytest.mark.parametrize("name", EXACT)
def test_a_model_can_move_to_another_back_end_and_stays_what_it_was(
    make_model: MakeModel, make_photo: Callable[..., Image.Image], tmp_path: Path, name: str
):
    made = make_model("cbam")
    folder = tmp_path / "moving"
    card = replace(made.card, backbone_options={"width": 8}, folder=folder)
    write_card(card, made.network.state_dict())
    model, photo = load(folder), make_photo()
    before = model.explain(photo, layer="layer3.0")
    moved = model.in_backend(name)
    assert (model.backend, moved.backend) == ("eager", name)
    for one in (model, moved):
        for layer in (None, "layer3.0"):
            assert one.explain(photo, layer=layer).predictions[0].probability == pytest.approx(
                before.predictions[0].probability, abs=1e-4
            )
    assert moved.cut(("layer3.0",)) is model.cut(("layer3.0",))


def test_where_nothing_but_pytorch_is_there_auto_is_eager_without_a_word(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", logger="cbam_lens")
    timed = slowest_is(monkeypatch, "eager")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_model("cbam", backend="auto").backend == "eager"
    assert not timed
    assert not caplog.records


def test_parity_sees_wrong_maps_even_where_the_logits_agree(make_model: MakeModel):
    plain = cut_of(make_model("cbam"))

    class OffGate(Wrong):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            activation, first, *maps = self.trunk(images)
            return (activation, first + 0.02, *maps)

    found = parity(plain, replace(plain, trunk=OffGate(plain.trunk, images(), {})), images())
    assert found.logits == 0
    assert found.maps == pytest.approx(0.02, abs=1e-6)
    assert not found


@pytest.mark.parametrize(
    "worse", [{"logits": 2e-3}, {"maps": 0.02}, {"top1": 0.99}, {"logits": float("nan")}]
)
def test_each_of_the_three_gates_can_close(worse: dict[str, float]):
    assert TOLERANCE
    assert not replace(TOLERANCE, **worse)


def test_parity_over_two_sets_is_the_worse_of_both():
    both = Parity(1e-4, 0.02, 1.0) & Parity(2e-3, 0.001, 0.5)
    assert both == Parity(2e-3, 0.02, 0.75)


@pytest.mark.parametrize("backend", ["numba", "openvino"])
def test_models_are_loaded_side_by_side(
    backend: str, make_network: Callable[..., nn.Module], make_model: MakeModel, tmp_path: Path
):
    folders: list[Path] = []
    for attention in ("none", "se", "cbam"):
        card = replace(
            make_model(attention).card,
            backbone_options={"width": 8},
            folder=tmp_path / attention,
        )
        folders.append(write_card(card, make_network(attention).state_dict()).folder)
    with ThreadPoolExecutor(3) as threads:
        models = list(threads.map(lambda folder: load(folder, backend), folders))
    for model in models:
        assert model.backend == backend
        assert parity(cut_of(model), model.cut(), images()), model.name


# The long form, over a folder of photos: benchmarks.parity.
@pytest.mark.parametrize("model_name", available())
@pytest.mark.parametrize("name", EXACT)
def test_bundled_models_answer_alike_on_the_gallery(
    name: str, model_name: str, bundled: Callable[[str], Model]
):
    photos = sorted(GALLERY.glob("*.jpg"))[::6]
    assert len(photos) >= 4
    model = bundled(model_name)
    plain = cut_of(model)
    fast, _ = backends.accelerate(plain, name, model.card.preprocess.size_px)
    batch = torch.stack([model.card.preprocess(_photo(path)) for path in photos])
    found = parity(plain, fast, batch.to(memory_format=torch.channels_last))
    assert found, found


def _photo(path: Path) -> Image.Image:
    return decode(path.read_bytes())


def test_the_api_says_what_runs_a_model_and_how_exactly(make_model: MakeModel):
    info = model_info(make_model("cbam", backend="eager-bf16"))
    assert (info.backend, info.precision) == ("eager-bf16", "PyTorch, bfloat16: approximate")
    assert model_info(make_model("cbam")).precision == "PyTorch, float32"


def test_a_service_with_an_unknown_back_end_does_not_start():
    with pytest.raises(UnknownName, match="'tensorrt'"):
        create_app(Settings(backend="tensorrt"))
