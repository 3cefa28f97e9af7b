"""`plan`: a run's programs compiled for devices that need not be present."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Pipeline

from ._child import TPU_ENVIRONMENT, call_in_child, cpu_environment, enough_cpu_devices
from ._request import Effort, Params, PlanSettings, Precision, Request, Reuse, check_settings
from ._results import Plan, Row
from ._topology import parse_topology


def plan(
    pipeline: Pipeline,
    topology: str = "local",
    *,
    mesh: str = "data",
    params: Params = "replicated",
    precision: Precision = "float32",
    microbatch: int | None = None,
    k: int | None = None,
    basis: int | None = None,
    reuse: Reuse | None = None,
    remat: bool | None = None,
    effort: Effort = "quick",
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Compile a run for a topology without running it: memory, work and communication per chip.

    The chunk of training steps, a curvature product, a cold solve and the steps with their probes
    are lowered on shapes and compiled, for TPUs by the TPU compiler itself, which needs no TPU.
    If they do not fit, settings are changed and compiled again until they do. Nothing is allocated,
    so that a model of any size can be planned on a laptop.

    Args:
        pipeline: The run; for a sweep, its first group.
        topology: `v5e:16x16`, `v6e:8x8`, `v5p:4x4x4`, `cpu:8`, or `local` for this machine's own.
        mesh: Axes of devices, as `data=4,model=2`; one size may be left out.
        params: Whether each device holds all parameters, or a part.
        precision: Precision of matrix products, and of the model's activations if it has that
            option.
        microbatch: Examples that a device evaluates at a time; None for the pipeline's own.
        k: Number of eigenvalues of a probe; None for the pipeline's own.
        basis: Number of vectors of a probe's solver; None for the pipeline's own.
        reuse: Whether a solve keeps the gradient's residuals; None for the pipeline's own.
        remat: Whether a transformer keeps only its layers' inputs.
        effort: Effort of the TPU compiler: full is that of a run, quick takes an eighth of the
            time.
        progress: Called with the name of each program before its compilation.

    Returns:
        A `Plan`: a row for each program, and the verdict.

    Raises:
        UserError: For an invalid topology, mesh or setting, or if the TPU compiler is not
            installed.
    """
    settings = PlanSettings(
        mesh=mesh,
        params=params,
        microbatch=microbatch,
        k=k,
        basis=basis,
        reuse=reuse,
        remat=remat,
    )
    check_settings(settings)
    # The pipeline itself is checked in the child: here, jax would look for a TPU at its start.
    place = parse_topology(topology)
    request = Request(
        pipeline=pipeline.to_dict(),
        topology=topology,
        settings=settings,
        precision=precision,
        effort=effort,
    )
    if place.platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                f"the topology is {topology!r}, and the TPU compiler is not installed: "
                "pip install 'aeoskit[tpu-plan]'"
            )
        environment = TPU_ENVIRONMENT
    elif place.platform == "cpu" and not enough_cpu_devices(place.devices):
        environment = cpu_environment(place.devices)
    else:
        return _compiled(request, progress)
    return call_in_child(_compiled, request, environment, progress)


def _compiled(request: Request, progress: Callable[[str], None] | None) -> Plan:
    from ._compile_plan import compile_plan  # here, since it imports jax

    return compile_plan(request, progress)


def compile_rows(
    pipeline: Pipeline,
    devices: Sequence[Any],
    programs: Sequence[str],
    *,
    params: Params = "replicated",
) -> list[Row]:
    """Compile some of a run's programs for devices of this process, among which data are split.

    Args:
        pipeline: The run, of one group.
        devices: Devices of one kind (`jax.devices()`).
        programs: Names of programs: `PRODUCT`, `SOLVE`, ...
        params: Whether each device holds all parameters, or a part.

    Returns:
        A row for each program.
    """
    from ._compile_plan import compile_present  # here, since it imports jax

    return compile_present(pipeline, devices, programs, params)
