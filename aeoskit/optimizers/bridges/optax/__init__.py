"""The bridge to optax, which does not import optax."""
