"""Rows: the claims, judged by the runs so far."""

from collections.abc import Iterable, Mapping
from typing import Any

from aeoskit.record import Run
from aeoskit_experiments.ledger._bounds import bounds_of
from aeoskit_experiments.ledger._claim import REFERENCE, Claim, RunSpec
from aeoskit_experiments.ledger._evidence import Evidence
from aeoskit_experiments.ledger._judge import Finding, judge, measure
from aeoskit_experiments.ledger._ledger import LedgerRequest, LedgerRun, Row
from aeoskit_experiments.ledger._plan import task_key

NOT_RUN = "not run yet"


class Judge:
    """A judge of claims, which measures each claim once per seed as runs end.

    Args:
        claims: The claims.
        asked: The request: size, seeds, and whether the grid counts.
        tables: The bounds.

    Raises:
        ValueError: If a claim has no bounds.
    """

    def __init__(self, claims: Iterable[Claim], asked: LedgerRequest, tables: Mapping[str, Any]):
        self._pairs = [
            (claim, setting)
            for claim in claims
            for setting in (claim.settings if asked.grid else (REFERENCE,))
            if claim.specs(setting)
        ]
        self._bounds = {
            (claim.key, setting): bounds_of(claim, setting, asked.size, tables)
            for claim, setting in self._pairs
        }
        self._seeds = asked.judged_seeds
        self._found: dict[tuple[str, str, int], Finding] = {}

    def rows(self, states: Mapping[str, LedgerRun], runs: Mapping[str, Run]) -> list[Row]:
        """Judge every claim in every setting by the runs that have ended.

        Args:
            states: The states of all runs, by key.
            runs: The records of the runs that have ended, by key.

        Returns:
            The rows, in the order of the claims.
        """
        return [self._row(claim, setting, states, runs) for claim, setting in self._pairs]

    def _row(
        self, claim: Claim, setting: str, states: Mapping[str, LedgerRun], runs: Mapping[str, Run]
    ) -> Row:
        specs, bounds = claim.specs(setting), self._bounds[claim.key, setting]
        for seed in self._seeds:
            here = {task_key(spec, seed): spec for spec in specs}
            key = (claim.key, setting, seed)
            if key not in self._found:
                finding = _finding(claim, here, states, runs)
                if finding is not None:
                    self._found[key] = finding
        found = [self._found.get((claim.key, setting, seed)) for seed in self._seeds]
        judged = [item for item in found if item is not None]
        verdict, value, reason = (
            judge(judged, bounds, has_alternative=bool(claim.alternative))
            if judged
            else ("unreachable", None, NOT_RUN)
        )
        if judged and len(judged) < len(found):
            left = len(found) - len(judged)
            reason += ("; " if reason else "") + f"{left} of {len(found)} seeds {NOT_RUN}"
        values = [item.value if item is not None else None for item in found]
        others = [item.alternative if item is not None else None for item in found]
        numbers = [number for number in values if number is not None]
        of_all = [states[task_key(spec, seed)] for seed in self._seeds for spec in specs]
        first = of_all[0]
        return Row(
            experiment=claim.experiment,
            claim=claim.name,
            says=claim.says,
            setting=setting,
            value=value,
            unit=claim.unit,
            bounds=(bounds.low, bounds.high),
            bounds_reason=bounds.reason,
            verdict=verdict,
            reason=reason,
            seeds=self._seeds,
            values=tuple(values),
            alternative=claim.alternative,
            alternatives=tuple(others),
            spread=(min(numbers), max(numbers)) if numbers else None,
            seconds=sum(state.seconds or 0.0 for state in of_all),
            judged=len(judged),
            works=tuple(spec.key for spec in specs),
            folder=first.folder,
            figure=first.figure,
            ratio=claim.ratio,
        )


def _finding(
    claim: Claim,
    specs: Mapping[str, RunSpec],
    states: Mapping[str, LedgerRun],
    runs: Mapping[str, Run],
) -> Finding | None:
    """The finding of one seed; None until all of its runs have ended."""
    here = [states[key] for key in specs]
    if any(state.status in ("waiting", "interrupted") for state in here):
        return None
    for state in here:
        if state.status == "refused":
            return Finding("unreachable", reason=state.error)
    for state in here:
        if state.status == "failed":
            return Finding("refuted", reason=f"the run failed: {state.error}")
    evidence = [Evidence(runs[key], spec) for key, spec in specs.items()]
    return measure(claim, evidence)
