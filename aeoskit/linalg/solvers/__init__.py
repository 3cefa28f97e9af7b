"""Eigen-solvers: one loop that grows a subspace, and the methods that are parts over it."""
