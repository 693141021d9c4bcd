"""The device that a stage computes on, in Fabric's words."""

import logging
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from divtrain.errors import DivtrainError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def open_fabric(accelerator: str, precision: str = "fp32", devices: int = 1) -> "Fabric":
    """Return a device, in Fabric's words, with a precision, in ours.

    With several devices, each process that torchrun started is to open one, and launch it.

    Raises:
        DivtrainError: when this machine has no such device, or not so many.
    """
    from lightning_fabric import Fabric  # here: it takes longer to import than torch
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    words = {"fp32": "32-true", "bf16": "bf16-mixed"}
    several: dict[str, Any] = {}
    if devices > 1:
        # Processes wait for the first one's stages, which may take long.
        strategy = DDPStrategy(timeout=timedelta(days=30))
        several = {"strategy": strategy, "num_nodes": int(os.environ["GROUP_WORLD_SIZE"])}
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    try:
        kind: Any = words[precision]
        return Fabric(accelerator=accelerator, devices=devices, precision=kind, **several)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        many = f"{devices} times " if devices > 1 else ""
        fewer = "lower `train.devices`, or " if devices > 1 else ""
        raise DivtrainError(
            f"this machine cannot compute {many}on `accelerator` {accelerator}; {fewer}leave it out"
            " to use what is available (`divtrain doctor` lists it)"
        ) from error
