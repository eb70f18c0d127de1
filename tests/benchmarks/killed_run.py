"""A run of the benchmarks that is killed in its fifth step and goes on from its checkpoint, beside one that is left alone."""

import pytest
import torch
from purifybench.training import train


class _Killed(Exception):
    pass


def whole_and_resumed(task, make, settings, checkpoint):
    """The outcomes of both; a checkpoint must lie within the first four steps."""
    device = torch.device("cpu")
    whole = train(task, make, settings, device=device)

    def killed(run):
        method = make(run)
        loss, calls = method.loss, []

        def counted(images, labels):
            calls.append(1)
            if len(calls) == 5:
                raise _Killed
            return loss(images, labels)

        method.loss = counted
        return method

    with pytest.raises(_Killed):
        train(task, killed, settings, device=device, checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = train(task, make, settings, device=device, checkpoint=checkpoint)
    assert not checkpoint.exists()
    return whole, resumed
