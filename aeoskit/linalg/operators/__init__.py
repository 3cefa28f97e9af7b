"""Operators made of operators, and the protocol of lineax."""
