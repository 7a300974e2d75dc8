"""Memory that loading took for a while."""

import ctypes
from contextlib import suppress


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can (glibc).

    By itself it keeps the room of large tensors that are long gone, some hundred MB after loading.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
