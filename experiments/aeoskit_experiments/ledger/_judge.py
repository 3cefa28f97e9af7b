"""The verdict from the findings of the seeds."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from aeoskit_experiments.ledger._bounds import Bounds
from aeoskit_experiments.ledger._claim import Claim, OutOfReach, Refuted, Verdict
from aeoskit_experiments.ledger._evidence import Evidence

_UNMEASURED = "the quantities of the claim were not measured"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The finding of one seed about a claim.

    Args:
        kind: "measured"; "refuted" or "unreachable" without a number.
        value: The number.
        reason: The reason if there is none.
    """

    kind: Literal["measured", "refuted", "unreachable"]
    value: float | None = None
    reason: str = ""


def measure(claim: Claim, evidence: Sequence[Evidence]) -> Finding:
    """Measure a claim on the runs of one seed; an exception is a finding too.

    Args:
        claim: The claim.
        evidence: The runs that it needs, in order.

    Returns:
        The finding.
    """
    try:
        value = claim.measure(*evidence)
    except OutOfReach as reason:
        return Finding("unreachable", reason=str(reason))
    except Refuted as reason:
        return Finding("refuted", reason=str(reason))
    except Exception as error:  # A wrong measure must not lose the other findings.
        reason = " ".join(str(error).split())
        return Finding("refuted", reason=f"its measure raised {type(error).__name__}: {reason}")
    if value is None or math.isnan(value):
        if any(item.run.status == "diverged" for item in evidence):
            return Finding("refuted", reason="the run diverged")
        return Finding("unreachable", reason=_UNMEASURED)
    if math.isinf(value):
        return Finding("refuted", reason="the number is infinite")
    return Finding("measured", float(value))


def judge(findings: Sequence[Finding], bounds: Bounds) -> tuple[Verdict, float | None, str]:
    """The verdict over the seeds, by the median of their numbers.

    Seeds without a number count too: if at least as many refute the claim as have a number it
    fails, and if most cannot decide it, it is unreachable.

    Args:
        findings: One for each seed.
        bounds: The bounds of the number.

    Returns:
        The verdict, the number, and an explanation in words.

    >>> judge([Finding("measured", 6.0), Finding("measured", 4.0)], Bounds(low=5.0))
    ('pass', 5.0, '1 of 2 seeds passes by itself')
    """
    numbers = [item.value for item in findings if item.value is not None]
    refuted = [item for item in findings if item.kind == "refuted"]
    value = statistics.median(numbers) if numbers else None
    reasons = list(dict.fromkeys(item.reason for item in findings if item.reason))
    if len(findings) > 1 and numbers:
        passing = sum(bounds.hold(number) for number in numbers)
        verb = "passes by itself" if passing == 1 else "pass by themselves"
        reasons.insert(0, f"{passing} of {len(findings)} seeds {verb}")
    reason = "; ".join(reasons)
    if refuted and len(refuted) >= len(numbers):
        return "fail", value, reason
    if value is None or len(findings) > 2 * (len(numbers) + len(refuted)):
        return "unreachable", value, reason
    return "pass" if bounds.hold(value) else "fail", value, reason
