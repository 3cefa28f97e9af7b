"""The verdict from the findings of the seeds."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from aeoskit_experiments.ledger._bounds import Bounds
from aeoskit_experiments.ledger._claim import Claim, Measured, OutOfReach, Refuted, Verdict
from aeoskit_experiments.ledger._evidence import Evidence

_UNMEASURED = "the quantities of the claim were not measured"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The finding of one seed about a claim.

    Args:
        kind: "measured"; "refuted" or "unreachable" without a number.
        value: The number.
        reason: The reason if there is none; otherwise what to know about it, if anything.
        alternative: What the number would be if the claim were false; None if not measured.
    """

    kind: Literal["measured", "refuted", "unreachable"]
    value: float | None = None
    reason: str = ""
    alternative: float | None = None


def measure(claim: Claim, evidence: Sequence[Evidence]) -> Finding:
    """Measure a claim on the runs of one seed; an exception is a finding too.

    Args:
        claim: The claim.
        evidence: The runs that it needs, in order.

    Returns:
        The finding.
    """
    try:
        found = claim.measure(*evidence)
    except OutOfReach as reason:
        return Finding("unreachable", reason=str(reason))
    except Refuted as reason:
        return Finding("refuted", reason=str(reason))
    except Exception as error:  # A wrong measure must not lose the other findings.
        reason = " ".join(str(error).split())
        return Finding("refuted", reason=f"its measure raised {type(error).__name__}: {reason}")
    if not isinstance(found, Measured):
        found = Measured(math.nan if found is None else float(found))
    if math.isnan(found.value):
        if any(item.run.status == "diverged" for item in evidence):
            return Finding("refuted", reason="the run diverged")
        return Finding("unreachable", reason=_UNMEASURED)
    if math.isinf(found.value):
        return Finding("refuted", reason="the number is infinite")
    other = found.alternative
    known = other is not None and math.isfinite(other)
    return Finding("measured", found.value, found.note, other if known else None)


def judge(
    findings: Sequence[Finding], bounds: Bounds, *, has_alternative: bool = False
) -> tuple[Verdict, float | None, str]:
    """The verdict over the seeds: a claim passes if it does on every one of them.

    It fails if it fails on one, and otherwise cannot be judged if it cannot on one. A number
    within bounds that do not exclude its alternative decides nothing.

    Args:
        findings: One for each seed.
        bounds: The bounds of the number.
        has_alternative: Whether the claim measures what the number would be if it were false.

    Returns:
        The verdict, the median of the numbers, and an explanation in words.

    >>> judge([Finding("measured", 6.0), Finding("measured", 4.0)], Bounds(low=5.0))
    ('fail', 5.0, '1 of 2 seeds pass')
    >>> judge([Finding("measured", 6.0, alternative=5.5)], Bounds(low=5.0), has_alternative=True)
    ('unreachable', 6.0, 'the alternative, 5.5, is within the bounds too, ...')
    """
    judged = [_judge_one(item, bounds, has_alternative) for item in findings]
    verdicts = [verdict for verdict, _ in judged]
    numbers = [item.value for item in findings if item.value is not None]
    value = statistics.median(numbers) if numbers else None
    overall: Verdict = "pass"
    if "fail" in verdicts:
        overall = "fail"
    elif "unreachable" in verdicts:
        overall = "unreachable"
    # What to know about numbers that pass does not stand among the reasons why others do not.
    reasons = dict.fromkeys(reason for verdict, reason in judged if reason and verdict == overall)
    count = [f"{verdicts.count('pass')} of {len(findings)} seeds pass"] if len(findings) > 1 else []
    return overall, value, "; ".join([*count, *reasons])


def _judge_one(finding: Finding, bounds: Bounds, has_alternative: bool) -> tuple[Verdict, str]:
    if finding.kind == "refuted":
        return "fail", finding.reason
    if finding.value is None:
        return "unreachable", finding.reason
    if not bounds.hold(finding.value):
        return "fail", finding.reason
    other = finding.alternative
    if has_alternative and other is None:
        return "unreachable", "its alternative was not measured"
    if other is not None and bounds.hold(other):
        return (
            "unreachable",
            f"the alternative, {other:.3g}, is within the bounds too, which decide nothing here",
        )
    return "pass", finding.reason
