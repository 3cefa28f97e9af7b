"""The bridge to optax, of which nothing is imported."""
