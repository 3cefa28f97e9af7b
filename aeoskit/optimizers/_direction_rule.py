"""Rules whose metric is made of the direction that momentum makes of the gradients."""

from __future__ import annotations

import abc

from jaxtyping import PyTree

from ._preconditioning import AbstractPreconditionerRule


class AbstractDirectionRule(AbstractPreconditionerRule):
    """A rule whose P is made of the momentum rule's direction: momentum first, then its metric.

    It goes with `order="precondition_last"`.

    Example:
        >>> from aeoskit.optimizers import RMS, AbstractDirectionRule, Muon
        >>> isinstance(Muon(), AbstractDirectionRule), isinstance(RMS(), AbstractDirectionRule)
        (True, False)
    """

    @abc.abstractmethod
    def follow(self, grads: PyTree, direction: PyTree, state: PyTree) -> PyTree:
        """The state that has seen these gradients and the direction that momentum makes of them.

        Args:
            grads: the gradients, with the structure of the parameters.
            direction: what the momentum rule returned for them.
            state: the rule's state.

        Returns:
            The next state.
        """

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        """Without momentum the direction is the gradient."""
        return self.follow(grads, grads, state)
