"""Accuracy against cost: how many auxiliary rows, how often; the forms between which a user chooses."""

from functools import partial

from .methods import TASK_ROWS, Methods, Purified

#: Of the library's default.
STRENGTH = 0.5
#: Auxiliary rows per acting step beside `TASK_ROWS`, and every how many steps there is one.
#: The strength grows as they become rarer.
FORMS = ((8, 1), (11, 1), (16, 1), (21, 1), (32, 1), (64, 1), (32, 2), (64, 2), (64, 3))


def form_name(rows: int, every: int) -> str:
    """What tables call a form.

    >>> form_name(21, 1), form_name(64, 3)
    ('21 of 64 rows, every step', '64 of 64 rows, every 3 steps')
    """
    return f"{rows} of {TASK_ROWS} rows, every {'step' if every == 1 else f'{every} steps'}"


def in_proportion(rows: int, task_rows: int) -> int:
    """Auxiliary rows beside so many task rows, for ``rows`` beside `TASK_ROWS`; at least one.

    >>> in_proportion(21, 32)
    10
    """
    return max(1, round(rows * task_rows / TASK_ROWS))


def forms(task_rows: int = TASK_ROWS) -> Methods:
    """The default in every form, its auxiliary rows in proportion to the task's."""
    return {
        form_name(rows, every): partial(
            Purified, batch_size=in_proportion(rows, task_rows), every=every, strength=STRENGTH * every
        )
        for rows, every in FORMS
    }
