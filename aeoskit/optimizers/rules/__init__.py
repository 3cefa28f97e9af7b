"""What composes an optimizer: momentum rules, preconditioner rules, schedules."""
