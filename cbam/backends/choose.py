"""Back ends: what runs a trunk. Heads stay in PyTorch, where the methods differentiate them.

A back end turns a traced trunk into another callable with the same outputs: the activation and
every gate's map. All `exact` ones compute in float32, and their answers differ from the plain
trunk's only by rounding (TOLERANCE).
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, fx, nn

from cbam import render
from cbam.backends.openvino import OpenVINO
from cbam.backends.pytorch import Eager, EagerBf16, OnGPU
from cbam.errors import CBAMLensError, NotAvailable, UnknownName
from cbam.explain.methods import heat_maps
from cbam.explain.targets import ClassLogit
from cbam.trace.cut import Cut
from cbam.trace.intervene import changed, full_values
from cbam.trace.rewrite import Folded

log = logging.getLogger("cbam_lens")


@dataclass(frozen=True)
class Backend:
    """A way to run a trunk: how to make it and how to present it."""

    title: str  # what it computes with, in plain words
    exact: bool  # float32: answers within TOLERANCE of the plain trunk's
    missing: Callable[[], str]  # why it is not available on this machine; empty: it is
    make: Callable[..., nn.Module]  # trunk, example images, folded; if told: values of its gates
    spared_by: str = ""  # "auto" does not try it if the machine has this one
    is_told: bool = False  # it runs trunks that take values for their gates, as fast as any other


def _nothing_missing() -> str:
    return ""


def _openvino_missing() -> str:
    if find_spec("openvino") is None:
        return "OpenVINO is not installed; `pip install openvino` brings it"
    return ""


def _numba_missing() -> str:
    if find_spec("numba") is None:
        return "Numba is not installed; `pip install cbam-lens[numba]` brings it"
    return ""


def _gpu_missing() -> str:
    return "" if torch.cuda.is_available() else "PyTorch finds no CUDA GPU here"


def _numba(trunk: fx.GraphModule, images: Tensor, folded: Folded) -> nn.Module:
    from cbam.backends.numba_gates import compile_gates  # its import compiles

    return Eager(trunk, images, folded, compile_gates)


EAGER, NUMBA, OPENVINO, AUTO = "eager", "numba", "openvino", "auto"
BACKENDS: dict[str, Backend] = {
    EAGER: Backend("PyTorch, float32", True, _nothing_missing, Eager),
    "eager-bf16": Backend("PyTorch, bfloat16: approximate", False, _nothing_missing, EagerBf16),
    NUMBA: Backend(
        "PyTorch with CBAM's gates compiled by Numba, float32",
        True,
        _numba_missing,
        _numba,
        spared_by=OPENVINO,  # it takes seconds to compile, and was never the faster one
    ),
    OPENVINO: Backend(
        "OpenVINO on the CPU, float32", True, _openvino_missing, OpenVINO, is_told=True
    ),
    "cuda": Backend("PyTorch on a CUDA GPU, float32", True, _gpu_missing, OnGPU),
    "compile": Backend(
        "torch.compile on a CUDA GPU, float32",
        True,
        _gpu_missing,
        partial(OnGPU, compiler=torch.compile),
        spared_by="cuda",  # it takes a minute to compile
    ),
}
TRIALS = 5  # timed passes of each back end when AUTO chooses

# The fastest back end that AUTO found for each kind of trunk, so that it measures a kind once.
_fastest: dict[Hashable, str] = {}
_beside = ThreadPoolExecutor(1, "back end")  # makes back ends while the caller goes on


@dataclass(frozen=True)
class Parity:
    """How far a back end's answers are from the plain trunk's, over some images."""

    logits: float  # largest |difference|
    maps: float  # largest |difference| of gate maps, and of Grad-CAM maps scaled to [0, 1]
    top1: float  # share of images with the same top class

    def __bool__(self) -> bool:
        """Whether it is close enough."""
        return self.logits <= TOLERANCE.logits and self.maps <= TOLERANCE.maps and self.top1 == 1

    def __and__(self, other: "Parity") -> "Parity":
        """The larger differences of both, and the mean `top1`, as for equally many images."""
        return Parity(
            max(self.logits, other.logits),
            max(self.maps, other.maps),
            (self.top1 + other.top1) / 2,
        )


TOLERANCE = Parity(logits=1e-3, maps=0.01, top1=1.0)


def parity(plain: Cut, fast: Cut, images: Tensor) -> Parity:
    """Compare two trunks of one cut on images (N, 3, H, W)."""
    activation, maps = plain.run_trunk(images)
    fast_activation, fast_maps = fast.run_trunk(images)
    with torch.inference_mode():
        logits, _ = plain.run_head(activation)
        fast_logits, _ = plain.run_head(fast_activation)
    top = logits.argmax(dim=1)
    worst = max((float((maps[name] - fast_maps[name]).abs().max()) for name in maps), default=0.0)
    for row, index in enumerate(top.tolist()):
        heat, fast_heat = (
            render.scaled(heat_maps(plain, each[row : row + 1], [ClassLogit(index)]).numpy())
            for each in (activation, fast_activation)
        )
        worst = max(worst, float(np.abs(heat - fast_heat).max()))
    return Parity(
        float((logits - fast_logits).abs().max()),
        worst,
        float((top == fast_logits.argmax(dim=1)).float().mean()),
    )


def check_backend(name: str) -> None:
    """Raises UnknownName if there is no such back end, NotAvailable if this machine lacks it."""
    if name == AUTO:
        return
    if name not in BACKENDS:
        raise UnknownName.of("back end", name, (AUTO, *BACKENDS))
    missing = BACKENDS[name].missing()
    if missing:
        able = ", ".join(known for known, backend in BACKENDS.items() if not backend.missing())
        raise NotAvailable(f"Back end '{name}' cannot be used: {missing}. Available here: {able}.")


def accelerate(cut: Cut, name: str, side_px: int, folded: Folded | None = None) -> tuple[Cut, str]:
    """The cut with its trunk in a back end, for images of `side_px`, and that back end's name.

    For "auto", see `begin`. Raises UnknownName, NotAvailable.
    """
    return begin(cut, name, side_px, folded)()


def begin(
    cut: Cut,
    name: str,
    side_px: int,
    folded: Folded | None = None,
    changeable: Callable[[], Cut] | None = None,
) -> Callable[[], tuple[Cut, str]]:
    """Begin to `accelerate`; the returned function gives the result, and waits for it if it must.

    `changeable` makes the same cut for `changed`. Back ends that can run it take that one: the
    result is the cut without a change, and `changed` takes it.

    "auto" makes the available back ends in another thread, and takes the fastest whose answers to a
    test picture match the plain trunk's. It measures the first trunk of a kind; later trunks that
    end at a layer of the same name and see images of the same size, such as a family's other
    members, take the same back end. Raises UnknownName, NotAvailable.
    """
    check_backend(name)
    folded = {} if folded is None else folded
    picture = _test_picture(side_px)
    if name == AUTO:
        able = [
            each for each, backend in BACKENDS.items() if backend.exact and not backend.missing()
        ]
        tried = [each for each in able if each != EAGER and BACKENDS[each].spared_by not in able]
        make = partial(_in_backend, cut, images=picture, folded=folded, changeable=changeable)
        threads = torch.get_num_threads()
        made = {each: _beside.submit(_with_threads, threads, make, each) for each in tried}
        return partial(_chosen, cut, picture, folded, made)
    fast = _in_backend(cut, name, picture, folded, changeable)
    return lambda: (fast, name)


def _chosen(
    cut: Cut, picture: Tensor, folded: Folded, made: Mapping[str, "Future[Cut]"]
) -> tuple[Cut, str]:
    """The fastest of EAGER and of those in `made` whose answers match, and its name."""
    right: dict[str, Cut] = {}
    for name, future in made.items():
        try:
            fast = future.result()
            found = parity(cut, fast, picture)
        except Exception as error:  # another library may fail in any way
            log.warning("Back end %s is passed over: %s", name, error)
            continue
        if found:
            right[name] = fast
        else:
            log.warning("Back end %s is passed over: its answers differ, %s", name, found)
    # Numba compiles only gates: a choice that includes it holds for networks with the same ones.
    gates = cut.trunk_gates if NUMBA in made else ()
    kind = (cut.layer, picture.shape, gates, tuple(made))
    if right and kind not in _fastest:
        right[EAGER] = _in_backend(cut, EAGER, picture, folded)
        seconds = _seconds(right, picture[:1])
        _fastest[kind] = min(seconds, key=seconds.__getitem__)
        said = ", ".join(f"{name} {each * 1000:.1f} ms" for name, each in seconds.items())
        log.info("The fastest back end at %d px is %s: %s", picture.shape[-1], _fastest[kind], said)
    name = _fastest.get(kind, EAGER)
    name = name if name in right else EAGER
    return right.get(name) or _in_backend(cut, EAGER, picture, folded), name


def _seconds(cuts: Mapping[str, Cut], images: Tensor) -> dict[str, float]:
    """The shortest of TRIALS passes of each: other work on the machine can only make one longer.

    They take turns, so that such work disturbs all of them.
    """
    best = dict.fromkeys(cuts, math.inf)
    for _ in range(TRIALS):
        for name, cut in cuts.items():
            started = time.perf_counter()
            cut.run_trunk(images)
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def _with_threads(threads: int, make: Callable[[str], Cut], name: str) -> Cut:
    """Call `make` with the caller's number of threads: PyTorch keeps one for each thread."""
    torch.set_num_threads(threads)
    return make(name)


def _in_backend(
    cut: Cut,
    name: str,
    images: Tensor,
    folded: Folded,
    changeable: Callable[[], Cut] | None = None,
) -> Cut:
    if not isinstance(cut.trunk, fx.GraphModule):
        raise CBAMLensError(f"The trunk up to '{cut.layer}' runs in a back end already.")
    backend = BACKENDS[name]
    with torch.no_grad():
        if not (changeable and backend.is_told and cut.trunk_gates):
            return replace(cut, trunk=backend.make(cut.trunk, images, folded))
        told = changeable()
        made = backend.make(told.trunk, images, folded, full_values(told, images))
        return changed(replace(told, trunk=made), {})


def _test_picture(side_px: int) -> Tensor:
    """Two smooth random pictures as a network sees them: (2, 3, side_px, side_px)."""
    blobs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    pictures = nn.functional.interpolate(blobs, size=(side_px, side_px), mode="bicubic")
    return pictures.to(memory_format=torch.channels_last)
