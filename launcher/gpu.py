"""Is there a CUDA GPU here? Asked of the driver itself, since importing torch to ask takes seconds."""

from __future__ import annotations

import ctypes


def has_cuda() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
