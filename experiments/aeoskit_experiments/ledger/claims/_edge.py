"""E1: each learning rate at its own threshold."""

import functools

from aeoskit_experiments.ledger._claim import Work, claim
from aeoskit_experiments.ledger._evidence import Evidence

ADAM = Work("adam-edge")
RATES = ("1e-3", "3e-3", "1e-2")


def _ratio(run: Evidence, rate: str) -> float:
    return run.ratio(lr=float(rate))


for _rate in RATES:
    claim(
        "E1",
        f"lr-{_rate}",
        says=f"Adam at η = {_rate} hovers at its own threshold, 38/η",
        needs=ADAM,
    )(functools.partial(_ratio, rate=_rate))
