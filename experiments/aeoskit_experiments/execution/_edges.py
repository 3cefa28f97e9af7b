"""The states of a run while it goes on, by the realized edges that are known so far."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from aeoskit.trajectory import STATES, RecentSteps, next_states

Columns = dict[str, np.ndarray]

EDGE_COSTS = {
    True: "no forward pass: the losses are those of the training steps",
    False: "one more forward pass of the step's own batch at each measurement",
}
"""The cost of the realized edge if a step trains on all of the data, and if it does not."""


class StatesSoFar:
    """The states of a run's lanes, chunk by chunk: at its end those of `edge_states`.

    The realized edge of a chunk's last step is known with the next chunk, and so is its state.

    Args:
        lanes: their number.

    Example:
        >>> states = StatesSoFar(1)
        >>> states.prepend(np.arange(60), np.ones(60))
        >>> states.shown([0])
        'at the edge'
    """

    def __init__(self, lanes: int):
        self._recent = [RecentSteps()] * lanes
        self._codes = np.full(lanes, np.nan)
        # The last step, and its predicted change, NaN in lanes without such a row.
        self._waiting: tuple[np.ndarray, np.ndarray] | None = None

    def prepend(self, steps: Int[np.ndarray, " n"], zeta: Float[np.ndarray, " n"]) -> None:
        """Add the steps of a run from which this one goes on, ζ NaN where they go uphill."""
        for lane in range(len(self._recent)):
            self._add(lane, steps, zeta)

    def add(
        self,
        steps: Int[np.ndarray, " n"],
        measurements: Columns,
        measured: Columns,
        sound: Bool[np.ndarray, "n lanes"],
    ) -> Float[np.ndarray, "n lanes"]:
        """Add a chunk.

        Args:
            steps: with the step before it, if that is completed.
            measurements: name to values, (n, lanes).
            measured: name to mask, (n,).
            sound: where a lane had not diverged.

        Returns:
            The places of the states in `STATES`; NaN where none follows, or not yet.
        """
        codes = np.full(sound.shape, np.nan)
        if "realized_edge" not in measurements:
            return codes
        zeta = np.asarray(measurements["realized_edge"], float)
        promised = np.where(sound, np.asarray(measurements["predicted_change"], float), np.nan)
        if self._waiting is not None:
            promised[0] = self._waiting[1][0]
        known = measured["realized_edge"]
        codes[known] = self._lanewise(steps[known], zeta[known], promised[known])
        waits = measured["predicted_change"][-1] and not known[-1]
        self._waiting = (steps[-1:], promised[-1:]) if waits else None
        return codes

    def rest(self) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n lanes"]]:
        """The last step of a run that has ended, without its realized edge, and its states."""
        if self._waiting is None:
            return np.zeros(0, int), np.zeros((0, len(self._recent)))
        steps, promised = self._waiting
        self._waiting = None
        return steps, self._lanewise(steps, np.full_like(promised, np.nan), promised)

    def have_been(self, lanes: Iterable[int]) -> bool:
        """True if each of some lanes has been at the edge."""
        return all(self._recent[lane].been for lane in lanes)

    def shown(self, lanes: Iterable[int]) -> str | None:
        """The last states of some lanes in words; None if none is known."""
        known = Counter(int(code) for code in self._codes[[*lanes]] if np.isfinite(code))
        if len(known) == 1:
            return STATES[next(iter(known))]
        return ", ".join(f"{known[code]} {STATES[code]}" for code in sorted(known)) or None

    def _lanewise(self, steps: np.ndarray, zeta: np.ndarray, promised: np.ndarray) -> np.ndarray:
        codes = np.full(zeta.shape, np.nan)
        downhill = np.where(promised < 0, zeta, np.nan)
        for lane in range(len(self._recent)):
            there = np.isfinite(promised[:, lane])
            codes[there, lane] = self._add(lane, steps[there], downhill[there, lane])
        return codes

    def _add(self, lane: int, steps: np.ndarray, zeta: np.ndarray) -> np.ndarray:
        _, codes, self._recent[lane] = next_states(self._recent[lane], steps, zeta)
        known = codes[np.isfinite(codes)]
        if known.size:
            self._codes[lane] = known[-1]
        return codes
