"""The claims, one module for each group of experiments; importing them fills the registry."""

from aeoskit_experiments.ledger.claims import _advances, _edges, _grids, _realized

__all__ = ["_advances", "_edges", "_grids", "_realized"]
