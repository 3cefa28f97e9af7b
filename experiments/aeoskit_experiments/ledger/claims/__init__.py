"""The claims, a module for each group of experiments; importing them fills the registry."""

from aeoskit_experiments.ledger.claims import _advance, _edge, _thresholds

__all__ = ["_advance", "_edge", "_thresholds"]
