"""Accuracy against cost: the forms that are compared."""

import pytest
from purifybench import frontier as forms

from wdpurify import BalancedStrength


@pytest.mark.parametrize(("task_rows", "rows"), [(64, (8, 21, 64)), (32, (4, 10, 32)), (4, (1, 1, 4))])
def test_auxiliary_rows_are_in_proportion_to_the_tasks(task_rows, rows):
    made = forms.forms(task_rows)
    found = tuple(made[forms.form_name(*form)].keywords["batch_size"] for form in ((8, 1), (21, 1), (64, 3)))
    assert found == rows
    assert {form.keywords["strength"] / form.keywords["every"] for form in made.values()} == {forms.STRENGTH}


def test_the_strength_of_the_forms_is_the_librarys():
    assert BalancedStrength().value == forms.STRENGTH
