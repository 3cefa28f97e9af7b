"""Vectors: pytrees of arrays, blocks of them, and what a solver keeps beside them."""
