"""Checks of the stages together, before any work."""

from collections.abc import Iterable, Mapping
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import spell
from aeoskit_experiments.pipelines._choice import Choice
from aeoskit_experiments.pipelines._experiment import AnyTrack, Branch, Experiment
from aeoskit_experiments.pipelines._registry import STAGES, is_of_tokens, is_ours, is_own
from aeoskit_experiments.pipelines._settings import Track, TrackError, Train

OF_NUMBERS = ("chebyshev", "quadratic")


def check(experiment: Experiment) -> None:
    """Raise a `UserError` unless the experiment of one group is valid.

    The checks concern combinations of stages; single values were checked when each stage was made.
    Model and optimizers are built once, for their own checks.

    Args:
        experiment: The experiment of one group: only the optimizer's array leaves are swept.
    """
    for kind in STAGES.values():
        if kind.required and getattr(experiment, kind.name) is None:
            example = f"{kind.name} {next(iter(kind.variants))}" if kind.variants else "train"
            raise UserError(
                f"the pipeline has no stage {kind.name!r}: add one (such as `{example}"
                f"{' --steps 1000' if kind.name == 'train' else ''}`)"
            )
    data, train, model = experiment.data, experiment.train, experiment.model
    assert data is not None
    assert train is not None
    assert model is not None
    assert experiment.loss is not None
    assert experiment.optimizer is not None
    _check_loss(data, experiment.loss)
    _check_length(train)
    optimizers = [_build_optimizer(experiment.optimizer, lane) for lane in experiment.lanes()]
    for probe in experiment.probes:
        _check_probe(probe)
        _check_measurable(probe.variant, experiment.optimizer, optimizers[0])
    _check_batches(data, train, experiment.probes)
    examples = data.settings.get("examples")
    if train.epochs is None or isinstance(examples, int):
        check_steps(experiment, train.steps_on(examples if isinstance(examples, int) else 1))
    _check_whole(model, _build(model, {}), train)
    if train.batch is not None and not optimizers[0].takes_batches:
        raise UserError(
            f"train: batch is {train.batch}, but each step of {experiment.optimizer.label} uses "
            f"all of the data: leave batch out"
        )
    for branch in experiment.branches:
        _check_branch(branch, experiment.probes, experiment.optimizer, optimizers[0], train.batch)


def check_steps(experiment: Experiment, steps: int) -> None:
    """Raise a `UserError` unless the steps in all stages are within the length of training.

    With epochs, the number of steps may be known only once the data are loaded.
    """
    for probe in experiment.probes:
        if probe.every > steps:
            raise UserError(
                f"track {probe.variant}: every is {probe.every}, but training has only "
                f"{steps} steps: give a period of at most {steps}"
            )
    rewind = experiment.rewind
    begin = rewind.at if rewind is not None and isinstance(rewind.at, int) else 0
    if begin >= steps:
        raise UserError(
            f"rewind: at is {begin}, but training has only {steps} steps in all: "
            f"give an earlier step, or more steps with `train --steps`"
        )
    for branch in experiment.branches:
        if isinstance(branch.at, int) and 0 < branch.at < begin:
            raise UserError(
                f"branch {branch.name}: at is {branch.at}, but the run is rewound to step {begin}: "
                f"give a later step, or start"
            )
        if isinstance(branch.at, int) and branch.at >= steps:
            raise UserError(
                f"branch {branch.name}: at is {branch.at}, but training has only "
                f"{steps} steps: give an earlier step"
            )


def check_networks(experiments: Iterable[Experiment]) -> None:
    """Raise a `UserError` unless each group's model fits its data; loads each data set once.

    A single group fails before any work anyway; with several, a later one must not fail after hours
    of work on the others.
    """
    import jax

    datasets: dict[str, Any] = {}
    seen = set()
    for experiment in experiments:
        data, model = experiment.data, experiment.model
        assert data is not None
        assert model is not None
        if (str(data), str(model)) in seen:
            continue
        seen.add((str(data), str(model)))
        if str(data) not in datasets:
            datasets[str(data)] = _build(data, {})
        network, dataset = _build(model, {}), datasets[str(data)]
        try:
            jax.eval_shape(lambda key, of=network, on=dataset: of.init(key, on), jax.random.key(0))
        except (ValueError, TypeError) as error:
            raise UserError(_sentence(model, error)) from error


def _check_loss(data: Choice, loss: Choice) -> None:
    if is_own("loss", loss.variant):
        return
    if is_of_tokens(data.variant) and loss.variant != "cross_entropy":
        raise UserError(
            f"loss {loss.variant}: the targets of data {data.variant} are tokens, not numbers: "
            f"choose loss cross_entropy"
        )
    if data.variant in OF_NUMBERS and loss.variant == "cross_entropy":
        raise UserError(
            f"loss {loss.variant}: the targets of data {data.variant} are numbers, not classes: "
            f"choose loss mse"
        )


def _check_measurable(probe: str, optimizer: Choice, built: Any) -> None:
    needs = {
        "preconditioned_sharpness": (built.has_metric, "preconditioner"),
        "flip_multiplier": (built.is_update_map, "multiplier"),
    }
    there, what = needs.get(probe, (True, ""))
    if not there:
        others = "sharpness or flip_multiplier" if built.is_update_map else "sharpness"
        raise UserError(
            f"track {probe}: {optimizer.label} has no {what}: track {others}, or take another "
            f"optimizer"
        )


def least_basis(k: int) -> int:
    """The smallest basis with which a probe can follow k pairs.

    A warm start has the pairs and a few more, and the basis as many again to improve them.

    >>> least_basis(3)
    12
    """
    return 2 * k + 6


def _check_length(train: Train) -> None:
    if train.steps is None and train.epochs is None:
        raise UserError("train lacks steps: give --steps or --epochs")
    if train.steps is not None and train.epochs is not None:
        raise UserError(
            f"train: steps is {train.steps} and epochs is {train.epochs}, but each sets the "
            f"length: give one of them"
        )
    if train.sampling == "replacement" and train.batch is None:
        raise UserError(
            "train: sampling is replacement, but without a batch every step takes all of the data: "
            "give a batch, or leave sampling out"
        )


def _check_probe(probe: AnyTrack) -> None:
    if not isinstance(probe, Track):
        return
    least = least_basis(probe.k)
    if probe.basis < least:
        raise UserError(
            f"track {probe.variant}: k is {probe.k}, but a basis of {probe.basis} vectors is too "
            f"small for as many pairs: raise basis to {least} or more"
        )


def _check_branch(
    branch: Branch,
    probes: tuple[AnyTrack, ...],
    main: Choice,
    optimizer: Any,
    batch: int | None,
) -> None:
    tracked = {probe.variant for probe in probes if not isinstance(probe, TrackError)}
    if branch.kind == "freeze" and not optimizer.freezable:
        fix = (
            "leave the branch out"
            if is_ours(main.variant)
            else "take one of aeoskit's, such as `optimizer adam`, or return one from your function"
        )
        raise UserError(
            f"branch {branch.name}: freeze works only with aeoskit's own adaptive optimizers, and "
            f"{main.label} is not one: {fix}"
        )
    if branch.kind == "freeze" and branch.ratio is None and optimizer.is_euclidean:
        raise UserError(
            f"branch {branch.name}: freeze holds P, but {main.label} has none, so that the branch "
            f"would repeat the main run: give it a ratio, or leave it out"
        )
    if branch.at == "threshold" and not optimizer.has_threshold:
        raise UserError(
            f"branch {branch.name}: at is {branch.at}, but {main.label} has no threshold: give a "
            f"step"
        )
    if not isinstance(branch.at, int) and not tracked:
        raise UserError(
            f"branch {branch.name}: at is {branch.at}, but no probe detects it: add "
            f"`track preconditioned_sharpness`, or give a step"
        )
    if (
        branch.at == "threshold"
        and "preconditioned_sharpness" not in tracked
        and not optimizer.is_euclidean
    ):
        raise UserError(
            f"branch {branch.name}: at is {branch.at}, but the edge of an adaptive optimizer is "
            f"one of its preconditioned sharpness: add `track preconditioned_sharpness`, or give "
            f"a step"
        )
    if branch.optimizer is not None:
        built = _build_optimizer(branch.optimizer, {})
        if batch is not None and not built.takes_batches:
            raise UserError(
                f"branch {branch.name}: batch is {batch}, but each step of "
                f"{branch.optimizer.label} is on all of the data: leave batch out"
            )
        if branch.ratio is not None and not built.tunable:
            raise UserError(
                f"branch {branch.name}: ratio sets the learning rate of aeoskit's own optimizers "
                f"that have a threshold, and {branch.optimizer.label} is not one: give its lr"
            )


def _check_batches(data: Choice, train: Train, probes: tuple[AnyTrack, ...]) -> None:
    examples = data.settings.get("examples")
    if not isinstance(examples, int):
        return
    # Microbatches may be larger than a batch: the loss on all of the data is evaluated in them too.
    for name in ("batch", "microbatch"):
        size = getattr(train, name)
        if size is not None and size > examples:
            raise UserError(
                f"train: {name} is {size}, but the data has only {examples} examples: "
                f"give at most {examples}, or none for all of them"
            )
    for probe in probes:
        if isinstance(probe, Track) and probe.examples is not None:
            check_probe_batch(probe.variant, probe.examples, examples)


def check_probe_batch(variant: str, size: int, examples: int) -> None:
    """Raise a `UserError` if a probe's batch is larger than the data."""
    if size > examples:
        raise UserError(
            f"track {variant}: examples is {size}, but the data has only {examples}: "
            f"give at most {examples}, or none for all of them"
        )


def _check_whole(model: Choice, network: Any, train: Train) -> None:
    if network.couples and train.microbatch is not None:
        raise UserError(
            f"train: microbatch is {train.microbatch}, but {model.label} has "
            f"batch norm, whose statistics are those of the whole batch: leave microbatch out, or "
            f"choose norm group"
        )


def _build_optimizer(optimizer: Choice, lane: Mapping[str, float]) -> Any:
    built = _build(optimizer, lane)
    settings = {**optimizer.settings, **lane}
    lr, decay = settings.get("lr"), settings.get("weight_decay")
    if isinstance(lr, int | float) and isinstance(decay, int | float) and lr * decay >= 2:
        raise UserError(
            f"{optimizer.label}: lr {spell(lr)} times weight_decay "
            f"{spell(decay)} is 2 or more, so that the decay alone diverges and no threshold is "
            f"above 0: lower either"
        )
    return built


def _build(choice: Choice, overrides: Mapping[str, float]) -> Any:
    try:
        return choice.build(**overrides)
    except (ValueError, TypeError) as error:
        raise UserError(_sentence(choice, error)) from error


def _sentence(choice: Choice, error: Exception) -> str:
    message = " ".join(str(error).split())
    return message if message.startswith(choice.label) else f"{choice.label}: {message}"
