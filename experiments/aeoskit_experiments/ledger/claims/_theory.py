"""E15: each threshold, tested on a quadratic."""

import functools

from aeoskit_experiments.ledger._claim import RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence, share

QUADRATIC = RunSpec("e15-theory")
LIVE = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "rmsprop": "RMSProp",
    "adabelief": "AdaBelief",
    "adafactor": "Adafactor",
}
_NONE = "no optimizer's P was frozen"


@claim(
    "E15",
    "below",
    says="with P frozen at .99 of the threshold, the loss falls: share of the optimizers",
    needs=QUADRATIC,
)
def below(run: Evidence) -> float:
    """The fraction of the optimizers that converge below their threshold."""
    return share([bool(row["converges"]) for row in run.summary.get("rows", ())], _NONE)


@claim(
    "E15",
    "above",
    says="with P frozen at 1.01 of the threshold, the loss grows: share of the optimizers",
    needs=QUADRATIC,
)
def above(run: Evidence) -> float:
    """The fraction of the optimizers that diverge above their threshold."""
    return share([bool(row["diverges"]) for row in run.summary.get("rows", ())], _NONE)


def _live(run: Evidence, optimizer: str) -> float:
    return run.ratio(optimizer=optimizer)


for _name, _words in LIVE.items():
    claim(
        "E15",
        f"live-{_name}",
        says=f"while P adapts, {_words} never diverges: the ratio settles near 1",
        ratio=True,
        needs=QUADRATIC,
    )(functools.partial(_live, optimizer=_name))
