"""Operators made of operators, and what lineax asks of one."""
