"""aeoskit: neural network training at the adaptive edge of stability, measured in JAX."""
