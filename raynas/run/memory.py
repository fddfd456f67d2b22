"""How much memory trials take: what their processes add to every report, whatever evaluates them."""

import inspect
import sys
from pathlib import Path
from typing import Any

from ray.tune.trainable import wrap_function

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux, see proc(5)
_RESIDENT = "5"  # what sets the largest resident set back to the present one


def measured(trainable: Any) -> Any:
    """A trainable of Tune's, a class or a function, as a class that reports `peak_memory` and `peak_gpu_memory` besides."""
    base = trainable if inspect.isclass(trainable) else wrap_function(trainable)
    return type(base.__name__, (_Measured, base), {})


class _Measured:
    """Stands before a trainable; a process that is reused begins to measure anew. What a trial reports by these names itself counts."""

    _since = 0  # bytes that were the peak before this trial, where it could not be set back

    def train(self) -> dict[str, Any]:
        result: dict[str, Any] = super().train()  # type: ignore[misc]  # of the trainable
        peak = _peak()
        peaks = {"peak_memory": peak if peak is not None and peak > self._since else None, "peak_gpu_memory": _gpu_peak()}
        return {name: value for name, value in peaks.items() if value is not None} | result

    def reset(self, *args: Any, **options: Any) -> bool:
        self._since = 0 if _set_back() else _peak() or 0
        return bool(super().reset(*args, **options))  # type: ignore[misc]


def _peak() -> int | None:
    """The largest resident set of this process, in bytes; None where the system does not tell."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _set_back() -> bool:
    """Begins a new peak; whether the system lets a process do so."""
    if (gpus := _gpus()) is not None:
        for gpu in range(gpus.device_count()):
            gpus.reset_peak_memory_stats(gpu)
    try:
        _CLEAR.write_text(_RESIDENT, encoding="ascii")
    except OSError:
        return False
    return True


def _gpu_peak() -> int | None:
    gpus = _gpus()
    return None if gpus is None else sum(gpus.max_memory_allocated(gpu) for gpu in range(gpus.device_count()))


def _gpus() -> Any:
    """What PyTorch knows of GPUs; None where the trial uses none."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
