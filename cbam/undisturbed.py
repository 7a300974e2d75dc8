"""PyTorch as it is when nobody has changed it, whatever the caller has set around a call.

A caller may be inside `torch.inference_mode()`, `torch.autocast`, a `torch.device`, a transform of
`torch.func` or a mode of its own, and may have asked for other matrix products. Models are loaded,
and questions answered, as if it had not, and find back what they had set.

The default dtype is left alone, because other threads would see a change: our code names float32
itself.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")

_here = threading.local()  # `inside`: whether this thread is in such a function


def undisturbed(call: Callable[P, T]) -> Callable[P, T]:
    """The function, so that it computes with PyTorch's own settings; the caller's come back.

    It runs in the caller's thread if it can. Modes on a stack (`torch.func`, `torch.device`, those
    of a caller's own) and autocast cannot be set aside there, but belong to their thread; then it
    runs in a new one.
    """

    @wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(_here, "inside", False):  # one such function calls another
            return call(*args, **kwargs)
        if _has_modes():
            threads, context = torch.get_num_threads(), copy_context()
            with ThreadPoolExecutor(1, "undisturbed", torch.set_num_threads, (threads,)) as thread:
                found: T = thread.submit(lambda: context.run(run, *args, **kwargs)).result()
                return found
        _here.inside = True
        try:
            with _exact_products(), torch.inference_mode(False), torch.enable_grad():
                return call(*args, **kwargs)
        finally:
            _here.inside = False

    return run


def _has_modes() -> bool:
    """Whether anything in this thread changes what PyTorch's functions do."""
    return bool(
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.maybe_current_level() is not None
        or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        or any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    )


class _Exact:
    """Products of float32 numbers in float32, not in 16 or 19 bits: settings of the whole process.

    The first call in sets them and the last one out sets them back. A thread beside us that asked
    for less gets exact products meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0  # calls, in all threads
        self._asked: list[tuple[Any, str]] = []  # what the caller had set otherwise

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._asked = [(each, now) for each in _products() if (now := _get(each)) in LESS]
                for each, _ in self._asked:
                    _set(each, "ieee")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    for each, asked in self._asked:
                        _set(each, asked)


LESS = ("tf32", "bf16", "high", "medium")  # bits than float32 has, as PyTorch names them


def _products() -> tuple[Any, ...]:
    """What has a precision; None stands for the one setting that PyTorch had before 2.9."""
    backends = torch.backends
    parts = [getattr(backends.mkldnn, name, None) for name in ("matmul", "conv")]
    new = [each for each in (*parts, backends.cuda.matmul) if hasattr(each, "fp32_precision")]
    return tuple(new) or (None,)


def _get(part: Any) -> str:
    return torch.get_float32_matmul_precision() if part is None else str(part.fp32_precision)


def _set(part: Any, precision: str) -> None:
    if part is None:
        torch.set_float32_matmul_precision("highest" if precision == "ieee" else precision)
    else:
        part.fp32_precision = precision


_exact_products = _Exact()
