"""The executor that the command line chooses."""

from typing import Annotated, Literal

from pydantic import Field

from divtrain.errors import DivtrainError
from divtrain.experiments.executors.executor import Executor
from divtrain.experiments.executors.local import LocalExecutor
from divtrain.experiments.executors.on_ray import RayExecutor
from divtrain.fields import checked
from divtrain.training import torchrun_processes

Resource = Annotated[float, Field(ge=0)]


@checked
class WorkOptions:
    """Which executor completes the stages."""

    executor: Literal["local", "ray"] = "local"
    """local (this process), or ray: one task per stage, on the machines of a Ray cluster."""
    address: str | None = None
    """The Ray cluster; if not given that of RAY_ADDRESS, or else one of this machine alone."""
    cpus: Resource | None = None
    """CPUs of a stage on Ray, also its threads; 1 if not given."""
    gpus: Resource | None = None
    """GPUs of a stage on Ray, may be a fraction; if not given 1 where there are any."""

    def choose(self) -> Executor:
        """Return the executor asked for.

        Raises:
            DivtrainError: for options of Ray without it, or Ray under torchrun.
        """
        if self.executor == "local":
            for name in ("address", "cpus", "gpus"):
                if getattr(self, name) is not None:
                    raise DivtrainError(f"--{name} is for --executor ray, which was not given")
            return LocalExecutor()
        if torchrun_processes() > 1:
            raise DivtrainError(
                "--executor ray does not go with torchrun: Ray starts its own processes; start"
                " `divtrain` by itself"
            )
        return RayExecutor(self.address, 1.0 if self.cpus is None else self.cpus, self.gpus)
