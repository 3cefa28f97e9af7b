"""The options of every command that trains: its devices and its processes."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from aeoskit_cli._generate import sign
from aeoskit_cli._options import Devices, Mesh, Parameters
from aeoskit_experiments import UserError
from aeoskit_experiments.pipelines import Pipeline, with_place

MANY = ("--coordinator", "--distributed")
"""The options of a process that is one of several."""

_Coordinator = Annotated[
    str | None,
    typer.Option(help="Address of process 0, if there are several", metavar="HOST:PORT"),
]
_Processes = Annotated[int | None, typer.Option(help="Number of processes", metavar="INT")]
_Process = Annotated[int | None, typer.Option(help="Index of this process, from 0", metavar="INT")]
_Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="Processes as given by SLURM, Open MPI or a TPU pod"),
]

OPTIONS: Parameters = {
    "mesh": (Mesh, None),
    "devices": (Devices, None),
    "coordinator": (_Coordinator, None),
    "processes": (_Processes, None),
    "process": (_Process, None),
    "distributed": (_Distributed, False),
}


@dataclasses.dataclass(frozen=True)
class Placing:
    """The values of these options.

    Args:
        mesh: Axes and sizes, or None for those of the pipeline.
        devices: Number of devices, or None.
        coordinator: The address of process 0, or None.
        processes: Number of processes, or None.
        process: Index of this process, or None.
        distributed: Whether the environment provides the last three.
    """

    mesh: str | None = None
    devices: int | None = None
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    distributed: bool = False

    def apply(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline on these devices; joins the other processes first, if there are any."""
        values = (self.coordinator, self.processes, self.process)
        if self.distributed or any(value is not None for value in values):
            from aeoskit_experiments.execution import Membership, join

            membership = Membership(*values)
            declared = with_place(pipeline, devices=self.devices).declared().place
            if declared is not None and declared.devices is not None:
                raise UserError(
                    f"devices is {declared.devices}, but each of several processes has the devices "
                    "of its machine: leave it out, and give a mesh of all of them"
                )
            join(membership)
            if self.mesh is None and pipeline.declared().place is None:
                return with_place(pipeline, mesh="data")  # otherwise each would do all of the work
        return with_place(pipeline, mesh=self.mesh, devices=self.devices)


def taken(given: dict[str, Any]) -> Placing:
    """The placing, with its options removed from the given ones."""
    return Placing(**{name: given.pop(name) for name in OPTIONS if name in given})


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command's function with these options added, passed as `placing`."""

    @functools.wraps(function)
    def call(**given: Any) -> Any:
        return function(placing=taken(given), **given)

    own = {
        name: (item.annotation, item.default)
        for name, item in inspect.signature(function).parameters.items()
        if name != "placing"
    }
    return sign(call, {**own, **OPTIONS})
