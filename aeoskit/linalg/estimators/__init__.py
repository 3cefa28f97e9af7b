"""Functions of the spectrum from products: traces, densities, diagonals."""
