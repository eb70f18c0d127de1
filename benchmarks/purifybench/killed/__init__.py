"""Trainings that are killed and go on: the loops that save as their frameworks do, and what kills them."""
