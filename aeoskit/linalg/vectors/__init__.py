"""Vectors: pytrees of arrays, blocks of them, and random directions."""
