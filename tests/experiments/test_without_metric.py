"""Optimizers without a preconditioner are refused where one is asked for, before any training."""

import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.execution import SilentListener, execute
from aeoskit_experiments.pipelines import (
    branch,
    data,
    loss,
    model,
    optimizer,
    pipe,
    store,
    track,
    train,
)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((track("preconditioned_sharpness", every=1),), "optimizer lion has no .* track sharpness"),
        ((branch("freeze", at=1),), "optimizer lion is not one: leave the branch out"),
    ],
)
def test_refuses_a_metric_that_is_not_there(stages, message: str, runs):
    pipeline = pipe(
        data("digits", examples=20),
        model("mlp", width=4),
        loss("mse"),
        optimizer("lion", lr=1e-3),
        train(2),
        store(str(runs)),
        *stages,
    )
    with pytest.raises(UserError, match=message):
        execute(pipeline, listener=SilentListener())
    assert not list(runs.iterdir())
