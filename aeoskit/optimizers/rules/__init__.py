"""The parts of an optimizer: momentum rules, preconditioner rules, schedules."""
