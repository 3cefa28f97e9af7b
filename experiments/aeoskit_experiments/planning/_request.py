"""The request of a plan: a pipeline, with the settings that determine its memory."""

from typing import Any, Literal

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import PipelineJob
from aeoskit_experiments.parts import source_of
from aeoskit_experiments.pipelines import Pipeline, Stage, make_stage, options_for, track

Precision = Literal["float32", "bfloat16"]
Params = Literal["replicated", "sharded"]
Reuse = Literal["auto", "linearize", "recompute"]
Effort = Literal["quick", "full"]

STEPS, PRODUCT, SOLVE, PROBE = "steps", "product", "solve", "steps + probe"
"""Names of programs: training alone, `H·v`, a cold solve, and training with probes."""

MATMUL = {"float32": "highest", "bfloat16": "bfloat16"}
"""The precision of matrix products, by jax's names."""

PASSES = {"float32": 6, "bfloat16": 1}
"""The number of bfloat16 products on a TPU for one such product."""


class PlanSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that may change until a run fits; None leaves the pipeline's own value.

    Args:
        mesh: Axes of devices, as `data=4,model=2`.
        params: Whether each device holds all parameters, or a part.
        microbatch: Examples that a device evaluates at a time.
        k: Number of eigenvalues of a probe.
        basis: Number of vectors of its solver.
        reuse: The solve's reuse of the gradient's residuals.
        remat: Whether a model with that option keeps only its layers' inputs.
    """

    mesh: str = "data"
    params: Params = "replicated"
    microbatch: int | None = None
    k: int | None = None
    basis: int | None = None
    reuse: Reuse | None = None
    remat: bool | None = None


class Request(PipelineJob, frozen=True, kw_only=True):
    """The request of a plan.

    Args:
        pipeline: The run, as plain data.
        topology: The devices.
        settings: The settings to begin with.
        precision: Precision of matrix products.
        effort: Effort of a TPU's compiler: full is that of a run; quick takes an eighth of the
            time, with nearly the same memory and a slower program.
    """

    topology: str
    settings: PlanSettings
    precision: Precision = "float32"
    effort: Effort = "quick"


def with_settings(pipeline: Pipeline, settings: PlanSettings, precision: Precision) -> Pipeline:
    """The pipeline of the first group of a sweep, with these settings.

    A pipeline without a solve gets one, for the preconditioned sharpness.

    Args:
        pipeline: The user's pipeline.
        settings: The settings that replace its own.
        precision: Precision of matrix products; a model with its own precision gets it as well.

    Raises:
        UserError: For an invalid setting.
    """
    group = pipeline.groups()[0].pipeline
    # At each step, since a run may have few; the period is in no number of a plan.
    solving = any(stage.stage == "track" for stage in group.stages)
    stages = [*group.stages, *([] if solving else [track("preconditioned_sharpness", every=1)])]
    return msgspec.structs.replace(
        group, stages=tuple(_with_settings(stage, settings, precision) for stage in stages)
    )


def _with_settings(stage: Stage, settings: PlanSettings, precision: Precision) -> Stage:
    values: dict[str, Any] = {}
    if stage.stage == "train":
        values = {"microbatch": settings.microbatch, "reuse": settings.reuse}
    elif stage.stage == "track":
        values = {"k": settings.k, "basis": settings.basis}
    elif stage.stage == "model":
        values = {"precision": precision, "remat": settings.remat}
    assert stage.variant is None or isinstance(stage.variant, str)  # of one group
    code = source_of(stage.variant, stage.sources)
    known = {option.name for option in options_for(stage.stage, stage.variant, code)}
    given = {key: value for key, value in values.items() if key in known and value is not None}
    if not given:
        return stage
    defaults = {name: value for name, value in stage.defaults.items() if value is not None}
    return make_stage(
        stage.stage,
        stage.variant,
        {**stage.options, **given},
        defaults=defaults,
        code=stage.sources,
    )


def check_settings(settings: PlanSettings) -> None:
    """Raise a `UserError` for invalid numbers, before a compiler is started."""
    for name in ("microbatch", "k", "basis"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"plan: {name} is {value}: it must be at least 1")
