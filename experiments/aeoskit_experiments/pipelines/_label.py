"""The name of a stage in messages."""


def label(stage: str, variant: str | tuple[str, ...] | None) -> str:
    """A stage as errors name it.

    >>> label("optimizer", "adam")
    'optimizer adam'
    """
    if isinstance(variant, tuple):
        variant = ",".join(variant)
    return f"{stage} {variant}" if variant else stage
