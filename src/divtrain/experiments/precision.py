"""The precision that ``--train.precision auto`` stands for on this machine."""

from contextlib import suppress
from pathlib import Path

import torch

from divtrain.experiments.config import Precision

CPU_FLAGS = Path("/proc/cpuinfo")
UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""What torch and Linux call units that multiply bfloat16, the last on ARM."""


def choose_precision(accelerator: str) -> tuple[Precision, str]:
    """Return bf16 where a device multiplies it in hardware, else fp32; and why.

    A CPU without such units takes many times as long in bf16 as in fp32.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
            return "fp32", "this GPU has no units for bf16"
        return "bf16", "this GPU has units for bf16"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "fp32", "bf16 was not tried on MPS"
    found = sorted(_cpu_units() & UNITS)
    if found:
        return "bf16", f"this CPU has units for bf16: {', '.join(found)}"
    return "fp32", "this CPU has no units for bf16"


def _cpu_units() -> set[str]:
    """Names of the CPU's units, as torch (2.6 and later) and Linux tell them."""
    units: set[str] = set()
    if told := getattr(torch.cpu, "get_capabilities", None):
        units |= {name for name, there in told().items() if there is True}
    with suppress(OSError):  # where there is no Linux
        for line in CPU_FLAGS.read_text().splitlines():
            if line.startswith(("flags", "Features")):
                units |= set(line.split())
    return units
