"""The list of promises to break keeps up with the code: each break can be made, and leaves code that is read."""

import ast

import break_promises
import pytest
from purifybench.promises import BREAKS, Break


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.promise)
def test_each_promise_can_be_broken_in_one_place_and_its_tests_exist(change):
    text = (break_promises.ROOT / change.file).read_text()
    changed = break_promises.broken(text, change)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    assert all((break_promises.ROOT / "tests" / name).exists() for name in change.tests)


def test_a_break_that_does_not_fit_is_named():
    change = Break("nothing", "wdpurify/_checks.py", "no such text", "", ())
    with pytest.raises(ValueError, match="'nothing' 0 times, not once"):
        break_promises.broken("", change)
