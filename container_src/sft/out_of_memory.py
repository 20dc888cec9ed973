"""Too little memory, as PyTorch and the libraries below it put it."""

from __future__ import annotations

# cuBLAS's; a CPU's; the last one is also CUDA's own, where a graph is made or replayed
TEXTS = ("cublas_status_alloc_failed", "can't allocate memory", "out of memory")


def is_out_of_memory(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or any(known in text for known in TEXTS)


def shorten(error: BaseException) -> str:
    """Its first sentence; the rest counts bytes."""
    return (str(error).strip() or "without a word").splitlines()[0].split(". ")[0]
