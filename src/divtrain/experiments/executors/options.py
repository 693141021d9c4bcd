"""Which executor, as asked for on the command line."""

from dataclasses import dataclass
from typing import Literal

from divtrain.errors import DivtrainError
from divtrain.experiments.executors.executor import Executor
from divtrain.experiments.executors.local import LocalExecutor
from divtrain.experiments.executors.on_ray import RayExecutor
from divtrain.training import torchrun_processes


@dataclass(frozen=True)
class WorkOptions:
    """Who does the stages."""

    executor: Literal["local", "ray"] = "local"
    """local (this process), or ray: a task a stage, on the machines of a Ray cluster."""
    address: str | None = None
    """The Ray cluster; if not given that of RAY_ADDRESS, or else one of this machine alone."""
    cpus: float | None = None
    """CPUs of a stage on Ray, also its threads; 1 if not given."""
    gpus: float | None = None
    """GPUs of a stage on Ray, may be a fraction; if not given 1 where there are any."""

    def choose(self) -> Executor:
        """Return the executor asked for.

        Raises:
            DivtrainError: for options of Ray without it, Ray under torchrun, or negative resources.
        """
        given = {"--address": self.address, "--cpus": self.cpus, "--gpus": self.gpus}
        if self.executor == "local":
            for flag, value in given.items():
                if value is not None:
                    raise DivtrainError(
                        f"{flag} {value} is for --executor ray, which was not given"
                    )
            return LocalExecutor()
        if torchrun_processes() > 1:
            raise DivtrainError(
                "--executor ray does not go with torchrun: Ray starts its own processes; start"
                " `divtrain` by itself"
            )
        for flag, value in (("--cpus", self.cpus), ("--gpus", self.gpus)):
            if value is not None and not 0 <= value < float("inf"):
                raise DivtrainError(f"expected {flag} >= 0, got {value:g}")
        return RayExecutor(self.address, 1.0 if self.cpus is None else self.cpus, self.gpus)
