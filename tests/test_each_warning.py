"""Each kind of warning is raised by some test."""

import ast
from pathlib import Path

from wdpurify import exceptions
from wdpurify.exceptions import PurifyWarning


def _expected():
    """Names of the warnings that some test expects."""
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.warns":
                yield from (
                    part.attr if isinstance(part, ast.Attribute) else part.id
                    for part in ast.walk(node.args[0])
                    if isinstance(part, ast.Name | ast.Attribute)
                )


def test_each_warning_is_raised_by_a_test():
    kinds = {name for name, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, PurifyWarning)}
    assert kinds - {"PurifyWarning"} - set(_expected()) == set()
