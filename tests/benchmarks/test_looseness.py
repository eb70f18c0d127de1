"""How far the bound of Theorem 1 is from the error that it bounds."""

import math

import torch
from purifybench.measures import looseness


def test_looseness_is_the_bound_over_the_error_it_bounds():
    """Scores are the feature itself, beside 0: the labels are missed by 0 on one side and by 3 on the other, 3 apart."""
    head = torch.nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        head.bias.zero_()
    near, far = torch.full((4, 1), 1.0), torch.full((6, 1), 4.0)
    labels = torch.zeros(4, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    assert math.isclose(looseness(head, (near, labels[0]), (far, labels[1])), (0.0 + 2 * 1.0 * 3.0) / 3.0, rel_tol=1e-6)
    assert math.isclose(looseness(head, (far, labels[1]), (far, labels[1])), 1.0, rel_tol=1e-6)
