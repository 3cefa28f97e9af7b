"""The name of a stage in messages."""


def label(stage: str, variant: str | tuple[str, ...] | None) -> str:
    """The name of a stage in errors.

    >>> label("optimizer", "adam")
    'optimizer adam'
    """
    if isinstance(variant, tuple):
        variant = ",".join(variant)
    return f"{stage} {variant}" if variant else stage
