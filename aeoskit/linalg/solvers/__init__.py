"""The solvers: one loop for methods that grow a subspace, and the methods."""
