"""Whatever a caller has set in PyTorch, a model answers the same and leaves the setting."""

import copy
import dataclasses
import itertools
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cbam
from cbam.cards.card import Card, write_card
from cbam.errors import BadCard, MissingFile
from cbam.explain.explanation import Explanation
from cbam.explain.methods import METHODS
from cbam.model import Model
from cbam.undisturbed import undisturbed

MakeModel = Callable[..., Model]
MakePhoto = Callable[..., Image.Image]


class Halved(TorchFunctionMode):
    """A caller's mode that spoils every result."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        return found * 0.5 if isinstance(found, Tensor) and found.is_floating_point() else found


class Counted(TorchDispatchMode):
    """A caller's mode that sees every operation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise AssertionError("a caller's mode saw one of our operations")


@contextmanager
def changed(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """A setting of the whole process, which must still be there at the end."""
    before = get()
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(before)


def precision(owner: Any, value: str) -> AbstractContextManager[None]:
    """A precision of the new kind, if this PyTorch has it."""
    if not hasattr(owner, "fp32_precision"):
        return nullcontext()
    return changed(
        lambda: owner.fp32_precision, lambda to: setattr(owner, "fp32_precision", to), value
    )


def default_dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    return changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


def strictly_deterministic() -> AbstractContextManager[None]:
    return changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    )


backends = torch.backends
SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype float16": lambda: default_dtype(torch.float16),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "device meta": lambda: torch.device("meta"),
    "default device meta": lambda: changed(
        torch.get_default_device,
        lambda to: torch.set_default_device(to if to.type != "cpu" else None),
        torch.device("meta"),
    ),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "matmul precision medium": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "matmul precision high": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high"
    ),
    "bf16 in matmul": lambda: precision(getattr(backends.mkldnn, "matmul", None), "bf16"),
    "bf16 in convolutions": lambda: precision(getattr(backends.mkldnn, "conv", None), "bf16"),
    "deterministic algorithms": strictly_deterministic,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "a function mode": Halved,
    "a dispatch mode": Counted,
    "saved tensors in other hands": lambda: torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor * 0, lambda tensor: tensor
    ),
    "inference mode and a default dtype": lambda: both(
        torch.inference_mode(), default_dtype(torch.float64)
    ),
}
# Here other code computes, whose sums have another order.
ROUNDED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "without oneDNN": lambda: changed(
        torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False
    ),
    "another number of threads": lambda: changed(torch.get_num_threads, torch.set_num_threads, 2),
}


@contextmanager
def both(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    first, second = contexts
    with first, second:
        yield


def state() -> tuple[Any, ...]:
    """What a caller could see of its own settings."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch.get_num_threads(),
        backends.mkldnn.enabled,
        torch._C._len_torch_function_stack(),
        *(
            getattr(getattr(backends.mkldnn, name, None), "fp32_precision", None)
            for name in ("matmul", "conv")
        ),
    )


def numbers(found: Explanation) -> list[np.ndarray]:
    """Everything of an answer that was computed."""
    return [
        np.array([each.probability for each in found.predictions]),
        *(each.map for each in found.heatmaps),
        *(gate.values for block in found.attention for gate in block.gates.values()),
    ]


def same(one: Explanation, other: Explanation, tolerance: float = 0.0) -> None:
    assert one.target.index == other.target.index
    for ours, theirs in itertools.zip_longest(numbers(one), numbers(other)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


PHOTO = Image.linear_gradient("L").resize((80, 60)).convert("RGB")


@pytest.fixture(scope="module")
def folder(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's card and weights on disk."""
    model, folder = make_model("cbam"), tmp_path_factory.mktemp("models") / "tiny"
    card = dataclasses.replace(model.card, backbone_options={"width": 8}, folder=folder)
    return write_card(card, model.network.state_dict()).folder


@pytest.fixture(scope="module")
def usual(folder: Path) -> Model:
    """The model, loaded where nobody has set anything."""
    return cbam.load(folder)


@pytest.fixture(scope="module")
def expected(usual: Model) -> Explanation:
    return usual.explain(PHOTO)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", [*SETTINGS, *ROUNDED])
def test_a_model_loads_and_answers_the_same_in_every_setting(
    setting: str, folder: Path, usual: Model, expected: Explanation
):
    around = {**SETTINGS, **ROUNDED}[setting]
    random, others = torch.get_rng_state(), np.random.get_state()[1].copy()
    with around():
        before = state()
        inside = cbam.load(folder)
        found, again = inside.explain(PHOTO), usual.explain(PHOTO)
        assert state() == before
    assert torch.equal(torch.get_rng_state(), random)
    np.testing.assert_array_equal(np.random.get_state()[1], others)
    tolerance = 1e-4 if setting in ROUNDED else 0.0
    for each in (found, again, inside.explain(PHOTO)):
        same(each, expected, tolerance)
    assert {each.dtype for each in inside.network.parameters()} == {torch.float32}
    assert not any(each.is_inference() for each in inside.network.parameters())


@pytest.mark.parametrize("layer", ["layer4.1", "layer3.1,layer4.0"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "randomcam"])
def test_every_method_answers_the_same_in_the_usual_settings(method: str, layer: str, usual: Model):
    expected = usual.explain(PHOTO, 0, method, layer)
    with default_dtype(torch.float64), torch.inference_mode(), torch.autocast("cpu"), Halved():
        same(usual.explain(PHOTO, 0, method, layer), expected)


def test_a_question_inside_a_transform_is_answered_as_outside(usual: Model, expected: Explanation):
    found = []

    def asking(x: Tensor) -> Tensor:
        found.append(usual.explain(PHOTO))
        return (x * x).sum()

    assert torch.func.grad(asking)(torch.ones(3)).tolist() == [2, 2, 2]
    torch.func.vmap(asking)(torch.ones(2, 3))
    for each in found:
        same(each, expected)
    assert len(found) == 2


def test_settings_come_back_when_a_call_fails():
    @undisturbed
    def fails() -> None:
        raise KeyError("on purpose")

    for around in SETTINGS.values():
        if around is not SETTINGS["anomaly mode"]:
            with around():
                before = state()
                with pytest.raises(KeyError):
                    fails()
                assert state() == before


def test_many_threads_give_back_what_was_set():
    """The last call out sets the process's precision back, not the first."""
    inside, go = threading.Barrier(3), threading.Event()
    seen: list[str] = []
    products = getattr(backends.mkldnn, "matmul", None)  # has a precision since PyTorch 2.9

    @undisturbed
    def call(last: bool) -> None:
        inside.wait(60)
        if last:
            go.wait(60)
        seen.append(getattr(products, "fp32_precision", "") or torch.get_float32_matmul_precision())

    with SETTINGS["matmul precision medium"]():
        threads = [threading.Thread(target=call, args=(last,)) for last in (False, True)]
        for thread in threads:
            thread.start()
        inside.wait(60)
        threads[0].join(60)
        go.set()
        threads[1].join(60)
        assert torch.get_float32_matmul_precision() == "medium"
    assert set(seen) <= {"highest", "ieee"}
    assert len(seen) == 2


# What a caller does to the network that it handed over, or that it took from the model.
def zero(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def hook(network: nn.Module) -> None:
    for module in network.modules():
        module.register_forward_hook(lambda module, args, output: output * 0)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def parametrised(network: nn.Module) -> None:
    for module in [*network.modules()]:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            parametrize.register_parametrization(module, "weight", Twice())


def exchange(network: nn.Module) -> None:
    for name in ("layer1", "layer4", "fc"):
        setattr(network, name, nn.Identity())


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "train": lambda network: network.train(),
    "weights set to zero": zero,
    "hooks": hook,
    "half": lambda network: network.half(),
    "double": lambda network: network.double(),
    "to meta": lambda network: network.to("meta"),
    "parametrisations": parametrised,
    "gradients": lambda network: network.requires_grad_(True),
    "other layers": exchange,
    "contiguous": lambda network: network.to(memory_format=torch.contiguous_format),
    "other weights": lambda network: network.load_state_dict(
        {name: value * 2 for name, value in network.state_dict().items()}
    ),
}


@pytest.mark.parametrize("whose", ["the model's", "the caller's", "a loaded model's"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_a_network_changes_no_answer(
    change: str, whose: str, folder: Path, usual: Model, expected: Explanation
):
    network = copy.deepcopy(usual.network)
    model = cbam.load(folder) if whose == "a loaded model's" else Model(usual.card, network)
    CHANGES[change](network if whose == "the caller's" else model.network)
    for layer in ("layer2.1", None):  # the first one is cut only now
        same(model.explain(PHOTO, layer=layer), usual.explain(PHOTO, layer=layer), 1e-5)
    asked = copy.deepcopy(usual)  # it has answered already
    CHANGES[change](asked.network)
    same(asked.explain(PHOTO), expected)


def test_a_changed_network_answers_in_a_model_of_its_own(
    make_model: MakeModel, make_photo: MakePhoto
):
    model, photo = make_model("cbam"), make_photo()
    with torch.no_grad():
        model.network.fc.bias[3] += 100
    assert model.network.fc.bias[3] > 50  # the caller's copy keeps what was done to it
    changed_model = Model(model.card, model.network)
    assert changed_model.explain(photo).predictions[0].index == 3
    assert model.explain(photo).predictions[0].probability < 0.999


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_dtype_answers_in_float32(
    dtype: torch.dtype, make_model: MakeModel, make_network: Any, make_photo: MakePhoto
):
    network = make_network("cbam").to(dtype)
    found = Model(make_model("cbam").card, network).explain(make_photo())
    assert found.heatmap.dtype == np.float32
    assert {each.dtype for each in network.parameters()} == {dtype}  # the caller's stays


def test_a_network_of_ones_own_is_wrapped_and_answers_the_same_in_every_setting(
    make_network: Any, usual: Model
):
    preprocess, labels = usual.card.preprocess, usual.card.labels
    network = make_network("cbam")
    for around in (torch.inference_mode, lambda: default_dtype(torch.float64), Halved):
        with around():
            wrapped = cbam.wrap(network, preprocess, labels)
            found = wrapped.explain(PHOTO)
        same(found, wrapped.explain(PHOTO))
    double = cbam.wrap(copy.deepcopy(network).double(), preprocess, labels)
    same(double.explain(PHOTO), found, 1e-5)


def test_a_network_made_in_inference_mode_answers(
    make_model: MakeModel, make_network: Any, make_photo: MakePhoto
):
    expected = make_model("cbam").explain(make_photo(), method="layercam")
    with torch.inference_mode():
        network = make_network("cbam")
    same(Model(make_model("cbam").card, network).explain(make_photo(), method="layercam"), expected)


def test_a_loaded_model_goes_through_pickle_by_its_card(tiny_card: Card, make_photo: MakePhoto):
    model = cbam.load(tiny_card.folder)
    packed = pickle.dumps(model)
    assert len(packed) < 1000  # its name, not its weights
    same(pickle.loads(packed).explain(make_photo()), model.explain(make_photo()))


def test_a_bundled_model_goes_through_pickle_by_its_name(bundled: Callable[[str], Model]):
    name = next(iter(cbam.available()))
    packed = pickle.dumps(bundled(name))
    assert name.encode() in packed
    assert str(Path(cbam.__file__).parent).encode() not in packed


def test_a_pickle_of_other_weights_is_refused(tiny_card: Card):
    packed = pickle.dumps(cbam.load(tiny_card.folder))
    spoilt = packed.replace(tiny_card.weights_sha256.encode(), b"0" * 64)
    with pytest.raises(BadCard, match="other weights"):
        pickle.loads(spoilt)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("whence", ["loaded", "in memory"])
def test_a_copied_model_answers_the_same(
    copied: Callable[[Model], Model],
    whence: str,
    tiny_card: Card,
    make_model: MakeModel,
    make_photo: MakePhoto,
):
    model = cbam.load(tiny_card.folder) if whence == "loaded" else make_model("cbam")
    twin = copied(model)
    assert twin is not model
    zero(twin.network)
    zero(model.network)
    assert twin.network is not model.network
    expected = cbam.load(tiny_card.folder) if whence == "loaded" else make_model("cbam")
    for each in (model, twin):
        same(each.explain(make_photo()), expected.explain(make_photo()))


def test_a_model_made_in_memory_says_what_to_do_instead_of_pickling(make_model: MakeModel):
    with pytest.raises(MissingFile, match="write_card"):
        pickle.dumps(make_model("cbam"))


def _asked(model: Model, photo: Image.Image, answers: Any) -> None:
    found = model.explain(photo)
    answers.put((found.target.index, found.heatmap))


def test_a_model_answers_in_a_spawned_process(tiny_card: Card, make_photo: MakePhoto):
    model = cbam.load(tiny_card.folder)
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=_asked, args=(model, make_photo(), answers))
    process.start()
    index, heatmap = answers.get(timeout=300)
    process.join(60)
    expected = model.explain(make_photo())
    assert index == expected.target.index
    np.testing.assert_allclose(heatmap, expected.heatmap, atol=1e-5)
