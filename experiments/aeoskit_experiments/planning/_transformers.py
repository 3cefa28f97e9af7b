"""The large runs that are planned for pods, in the docs and in checks."""

from aeoskit_experiments.pipelines import Pipeline, data, loss, model, optimizer, pipe, track, train


def transformer_pipeline(size: str) -> Pipeline:
    """Adam on random tokens, 1,024 sequences of 1,024, with a probe of three eigenvalues.

    Args:
        size: `gpt2-small` or `1b`.

    Example:
        >>> transformer_pipeline("1b").name
        '1b'
    """
    return pipe(
        data("tokens", examples=1024, length=1024, vocabulary=50257),
        model("transformer", size=size, remat=True),
        loss("cross_entropy"),
        optimizer("adam", lr=1e-4),
        track("preconditioned_sharpness", every=10, k=3),
        train(1000, microbatch=1),
        name=size,
    )
