"""A recipe: an experiment with a name, as a function that returns a pipeline."""

from aeoskit_experiments.pipelines import (
    Pipeline,
    data,
    loss,
    model,
    optimizer,
    pipe,
    track,
    train,
)


def my_recipe(*, lr: float = 3e-3, steps: int = 600, seed: int = 0) -> Pipeline:
    """Adam on digits, on the way to its threshold.

    Args:
        lr: Learning rate.
        steps: Steps of training.
        seed: Seed of the data and of the parameters.
    """
    return pipe(
        data("digits", examples=300, seed=seed),
        # Parts of your own go in the same way: model("./my_model.py:MyNet", width=32).
        model("mlp", width=32, seed=seed),
        loss("mse"),
        optimizer("adam", lr=lr),
        track("preconditioned_sharpness", every=10),
        train(steps),
    )
