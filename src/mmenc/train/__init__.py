"""Training: phases, schedules, exact resume."""
