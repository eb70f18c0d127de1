"""Sharded models (`fully_shard`) are pulled like one that is not, however they are wrapped and in every order of the loop."""

import itertools

import torch
import torch.distributed as dist
from ranks import run_on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from versions import sharded_on_cpus

from wdpurify import FixedStrength, GroupSampler, PurifyRegularizer

#: Which parts are sharded, and whether they are sharded again after their forward (torch's default: all but the outermost).
WAYS = {
    "layer by layer": ([1, 2, ...], None),
    "layer by layer, kept whole": ([1, 2, ...], False),
    "layer by layer, sharded again": ([1, 2, ...], True),
    "as a whole": ([...], None),
    "as a whole, sharded again": ([...], True),
}


#: Further settings of sharding: names of the mesh's axes and its shape, numbers in half precision, activation checkpoints.
SETTINGS = {
    "copied, then sharded": {"mesh": (2, 1)},
    "sharded inside of one copy": {"mesh": (1, 2)},
    "activation checkpoints": {"checkpoints": True},
    "half precision": {"half": True},
    "half precision, activation checkpoints": {"half": True, "checkpoints": True},
}


class Checkpointed(nn.Sequential):
    """Layers that are computed anew in the backward pass."""

    def forward(self, rows):
        return checkpoint(super().forward, rows, use_reentrant=False)


def _model(*, checkpoints=False):
    torch.manual_seed(0)
    # Widths that two ranks cannot share evenly.
    return nn.Sequential(
        nn.Linear(8, 5),
        (Checkpointed if checkpoints else nn.Sequential)(nn.Linear(5, 7), nn.Tanh()),
        nn.Linear(7, 6),
        nn.ReLU(),
        nn.Linear(6, 4),
    )


def _trained(
    way,
    *,
    strength=2.0,
    zero_first=False,
    factor=1.0,
    parts=1,
    every=1,
    mesh=None,
    half=False,
    checkpoints=False,
):
    """Full weights after three steps."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = _model(checkpoints=checkpoints)
    names = None if mesh is None else ("replicate", "shard")
    options = {"mesh": init_device_mesh("cpu", mesh or (dist.get_world_size(),), mesh_dim_names=names)}
    if half:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    sharded, again = WAYS.get(way, ([], None))
    if again is not None:
        options["reshard_after_forward"] = again
    for part in sharded:
        fully_shard(model if part is ... else model[part], **options)
    wrapped = model if sharded else DistributedDataParallel(model)
    labels = [row % 3 for row in range(48)]
    auxiliary = torch.randn(48, 8, generator=torch.Generator().manual_seed(3)) + torch.tensor(labels)[:, None]
    sampler = GroupSampler(auxiliary, labels, batch_size=8)
    purify = PurifyRegularizer.for_model(wrapped, sampler, strength=FixedStrength(strength), every=every)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(3):
        for part in range(parts):
            generator = torch.Generator().manual_seed(100 * step + 10 * part + dist.get_rank())
            rows, classes = torch.randn((6, 8), generator=generator), torch.randint(4, (6,), generator=generator)
            loss = criterion(wrapped(rows), classes) / parts
            if zero_first and part == 0:
                optimizer.zero_grad()
            (loss * factor).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(factor)
        optimizer.step()
        if not zero_first:
            optimizer.zero_grad()
    return [getattr(value, "full_tensor", value.detach)().detach() for value in model.parameters()]


LOOPS = [
    {"zero_first": zero_first, "factor": factor, "parts": parts}
    for zero_first, factor, parts in itertools.product((False, True), (1.0, 1024.0), (1, 2))
]


def in_all_ways():
    ends = []
    for loop in LOOPS:
        plain = _trained("not sharded", strength=0.0, **loop)
        ends.append((plain, [_trained(way, **loop) for way in ("not sharded", *WAYS)]))
    return ends


def with_all_settings():
    expected = _trained("not sharded"), _trained("not sharded", strength=0.0)
    ways = ("layer by layer", "as a whole")
    return expected, [[_trained(way, **given) for way in ways] for given in SETTINGS.values()]


def refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    group = dist.new_group([dist.get_rank()])
    parallel = parallelize_module(_model(), init_device_mesh("cpu", (dist.get_world_size(),)), {"0": ColwiseParallel()})
    labels = [row % 3 for row in range(48)]
    said = []
    for model, share in (
        (DistributedDataParallel(_model(), process_group=group), {}),
        (parallel, {}),
        (DistributedDataParallel(_model()), {"rank": 0, "world_size": 3}),
    ):
        try:
            sampler = GroupSampler(torch.randn(48, 8), labels, batch_size=8, **share)
            PurifyRegularizer.for_model(model, sampler).critic_step()
        except ValueError as error:
            said.append(str(error))
    return said


@sharded_on_cpus
def test_ranks_that_train_something_else_are_refused_by_what_they_do(tmp_path):
    for said in run_on_ranks(refused, tmp_path):
        assert [text.split(" ", 1)[0] for text in said] == ["`model`", "`model`", "`rank`"]
        assert "all 2 ranks" in said[0]
        assert "tensor parallelism" in said[1]


@sharded_on_cpus
def test_a_sharded_model_is_pulled_like_one_that_is_not_in_every_order_of_the_loop(tmp_path):
    for ends in run_on_ranks(in_all_ways, tmp_path):
        for loop, (plain, (expected, *others)) in zip(LOOPS, ends, strict=True):
            for number, (one, other) in enumerate(zip(plain[:-2], expected[:-2], strict=True)):
                assert (one - other).abs().max() > 1e-4, (loop, number)  # every layer below the features is pulled
            for way, other in zip(WAYS, others, strict=True):
                assert_close(other, expected, rtol=0, atol=2e-6, msg=lambda text, way=way, loop=loop: f"{way}, {loop}: {text}")


@sharded_on_cpus
def test_copies_half_precision_and_activation_checkpoints_change_nothing_of_the_pull(tmp_path):
    for (expected, plain), ends in run_on_ranks(with_all_settings, tmp_path):
        pull = max((one - other).abs().max() for one, other in zip(expected, plain, strict=True))
        for (setting, given), ways in zip(SETTINGS.items(), ends, strict=True):
            largest = 0.05 * pull.item() if given.get("half") else 2e-6
            for weights in ways:
                assert_close(weights, expected, rtol=0, atol=largest, msg=lambda text, setting=setting: f"{setting}: {text}")
