"""The optimizer: groups, rates, schedules, state. Usable alone."""
