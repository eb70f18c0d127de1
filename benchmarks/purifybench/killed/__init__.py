"""Trainings that are killed and go on: the loops that save as their frameworks do, and what kills them."""

from .forms import FORMS, Form
from .harness import Killed, kill_and_go_on

__all__ = ["FORMS", "Form", "Killed", "kill_and_go_on"]
