"""Several processes: one critic, shared rows, gradients as one process with a batch as large as all would have them."""

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import run_on_ranks
from small_loop import equal_states, state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from versions import sharded_on_cpus

from wdpurify import BalancedStrength, FixedStrength, GroupSampler, OneSided, PurifyRegularizer, TwoSided

ROWS = 12


def _model(norm=False):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 4))


def _sampler(batch_size, fixed="all"):
    generator = torch.Generator().manual_seed(1)
    groups = [row % 3 for row in range(96)]
    images = torch.rand((96, 3, 8, 8), generator=generator) + torch.tensor(groups)[:, None, None, None]
    return GroupSampler(images, groups, fixed=fixed, batch_size=batch_size)


STRENGTHS = {"balanced": lambda: BalancedStrength(4.0, fade=0.5), "fixed": lambda: FixedStrength(0.5), "none": lambda: 0.0}


def train(
    rank, world_size, kind, fixed="all", objective=None, norm=False, micro_batches=1, seed_of_rank=0, steps=7, **of_wrapper
):
    """Steps on this rank's share of the batches of one process; returns model, critic, losses and the rows drawn."""
    model = _model(norm)
    wrapped = DistributedDataParallel(model, **of_wrapper) if world_size > 1 else model
    purify = PurifyRegularizer.for_model(
        wrapped,
        _sampler(24 // world_size, fixed),
        strength=STRENGTHS[kind](),
        objective=objective or TwoSided(),
        seed=seed_of_rank * rank,
    )
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((ROWS, 3, 8, 8), generator=generator), torch.randint(4, (ROWS,), generator=generator)
        parts = images[rank::world_size].chunk(micro_batches), labels[rank::world_size].chunk(micro_batches)
        for number, (inputs, targets) in enumerate(zip(*parts, strict=True)):
            last = number == micro_batches - 1
            context = wrapped.no_sync() if world_size > 1 and not last else torch.enable_grad()
            with context:
                (criterion(wrapped(inputs), targets) / micro_batches).backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics = purify.metrics()
    figures = {"separation": metrics.separation, "excess": metrics.coherence_excess, "ratio": metrics.gradient_ratio}
    return {"model": state_of(model), "critic": state_of(purify.critic), **figures}


def on_rank(*arguments):
    return train(dist.get_rank(), dist.get_world_size(), *arguments)


@pytest.mark.parametrize(
    ("kind", "fixed", "objective", "micro_batches"),
    [("balanced", "all", TwoSided(), 1), ("fixed", 1, TwoSided(), 2), ("fixed", "all", OneSided(), 1)],
)
def test_two_ranks_do_what_one_process_does_with_batches_twice_as_large(tmp_path, kind, fixed, objective, micro_batches):
    first, second = run_on_ranks(on_rank, tmp_path, kind, fixed, objective, False, micro_batches)
    alone = train(0, 1, kind, fixed, objective, False, micro_batches)
    without = train(0, 1, "none", fixed, objective, False, micro_batches)
    assert equal_states(first["critic"], second["critic"])
    assert equal_states(first["model"], second["model"])
    assert_close(first["model"], alone["model"], rtol=0, atol=1e-6)
    assert_close(first["separation"], alone["separation"], rtol=1e-3, atol=1e-5)
    assert_close(first["ratio"], alone["ratio"], rtol=0.1, atol=0)  # ranks know the joint task gradient a step later
    assert max((without["model"][name] - alone["model"][name]).abs().max() for name in alone["model"]) > 1e-4


def test_ranks_are_as_coherent_as_one_process_with_all_their_rows(tmp_path):
    first, second = run_on_ranks(on_rank, tmp_path, "balanced", "all", None, False, 1, 0, 3)
    alone = train(0, 1, "balanced", steps=3)
    assert alone["excess"] > 1  # the classes are at random, and so the task's rows cancel at first
    assert first["excess"] == second["excess"]
    assert_close(first["excess"], alone["excess"], rtol=1e-4, atol=0)
    assert_close(first["model"], alone["model"], rtol=0, atol=1e-6)


WRAPPERS = ({}, {"static_graph": True}, {"gradient_as_bucket_view": True}, {"find_unused_parameters": True})


def wrapped_in_all_ways():
    return [train(dist.get_rank(), dist.get_world_size(), "balanced", **options) for options in WRAPPERS]


@pytest.mark.filterwarnings("ignore:find_unused_parameters=True was specified")
def test_options_of_the_wrapper_change_nothing(tmp_path):
    for plain, *others in run_on_ranks(wrapped_in_all_ways, tmp_path):
        for other in others:
            assert equal_states(plain["model"], other["model"])
            assert equal_states(plain["critic"], other["critic"])


def test_three_ranks_do_what_one_process_does(tmp_path):
    ranks = run_on_ranks(on_rank, tmp_path, "balanced", world_size=3)
    alone = train(0, 1, "balanced")
    assert all(equal_states(ranks[0][part], each[part]) for each in ranks for part in ("model", "critic"))
    assert_close(ranks[0]["model"], alone["model"], rtol=0, atol=1e-6)


def test_what_is_rounded_differently_stays_small_but_where_adam_divides_by_it():
    """Why critics of ranks and of one process drift apart: a bias whose gradient cancels moves by rounding over rounding."""

    def trained(noise):
        network = _model()[:-1]
        generator = torch.Generator().manual_seed(0)

        def extract(images):
            features = network(images)
            return features * (1 + noise * torch.randn(features.shape, generator=generator))

        purify = PurifyRegularizer(extract, _sampler(24), feature_dim=6, model=network, strength=0.0)
        for _ in range(7):
            purify.critic_step()
            purify.optimizer_stepped()
        return purify

    exact, rounded = trained(0.0), trained(1e-7)
    states = exact._trainer.optimizer.state
    apart = [
        ((mine - other).abs(), states[mine]["exp_avg_sq"].sqrt())
        for mine, other in zip(exact.critic.parameters(), rounded.critic.parameters(), strict=True)
    ]
    difference, size = (torch.cat([pair[part].flatten() for pair in apart]) for part in (0, 1))
    assert difference.max() > 1e-4
    assert size[difference.argmax()] < 1e-8
    assert difference[size > 1e-5].median() < 1e-6


def test_critics_agree_even_if_every_rank_was_given_a_seed_of_its_own(tmp_path):
    first, second = run_on_ranks(on_rank, tmp_path, "balanced", "all", TwoSided(), True, 1, 1, fresh=True)
    assert equal_states(first["critic"], second["critic"])
    trained = {
        name for name in first["model"] if "running" not in name
    }  # DDP leaves the running statistics of rank 0 to the end
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in trained)


def apart():
    rank = dist.get_rank()
    model = _model()
    torch.manual_seed(rank)
    sampler = GroupSampler(torch.rand(60, 3, 8, 8), [0, 1] * 30, batch_size=8, rank=0, world_size=1)
    purify = PurifyRegularizer(model[:-1], sampler, feature_dim=6, every=1)
    for _ in range(1 + rank):  # as many steps as each likes: nobody waits for anybody
        purify.critic_step()
    return state_of(purify.critic)


def test_ranks_that_train_models_of_their_own_keep_critics_of_their_own(tmp_path):
    first, second = run_on_ranks(apart, tmp_path)
    assert not equal_states(first, second)


def drawn():
    sampler = GroupSampler(torch.arange(64.0)[:, None], [0, 1] * 32, batch_size=8)
    return [sampler.next_batch().images[:, 0] for _ in range(4)]


def test_a_sampler_finds_its_share_by_itself(tmp_path):
    first, second = run_on_ranks(drawn, tmp_path)
    rows = torch.cat([*first, *second])
    assert sorted(rows.tolist()) == list(range(64))


def test_a_share_that_is_too_large_for_the_group_is_named_at_the_first_draw(tmp_path):
    with pytest.raises(AssertionError, match=r"fewer than `batch_size` 40 x 2 ranks"):
        run_on_ranks(too_large, tmp_path)


def too_large():
    GroupSampler(torch.arange(64.0)[:, None], [0, 1] * 32, batch_size=40).next_batch()


def sharded():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = _model()
    plain = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model, mesh=mesh)
    purify = PurifyRegularizer.for_model(model, _sampler(12), strength=FixedStrength(0.5), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        criterion(model(torch.rand(6, 3, 8, 8)), torch.randint(4, (6,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = (model[0].weight.full_tensor() - plain[0].weight).abs().max()
    return {"critic": state_of(purify.critic), "drawn": purify.sampler.state_dict()["drawn"], "moved": moved.detach()}


@sharded_on_cpus
def test_a_sharded_model_trains_with_one_critic(tmp_path):
    first, second = run_on_ranks(sharded, tmp_path)
    assert equal_states(first["critic"], second["critic"])
    assert first["drawn"] == 3
    assert first["moved"] > 1e-4


def sharded_and_loaded():
    """Three steps of a sharded model, twice; the second time what is saved inside an iteration is loaded at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ends = []
    for loads in (False, True):
        model = _model()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        purify = PurifyRegularizer.for_model(model, _sampler(12), strength=FixedStrength(0.5))
        criterion = purify.criterion(nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        torch.manual_seed(dist.get_rank())
        for step in range(3):
            if step == 1:
                purify.critic_step()
                drawn = purify.sampler.state_dict()["drawn"]
                if loads:
                    purify.load_state_dict(purify.state_dict(all_ranks=True))
            criterion(model(torch.rand(6, 3, 8, 8)), torch.randint(4, (6,))).backward()
            assert step != 1 or purify.sampler.state_dict()["drawn"] == drawn
            optimizer.step()
            optimizer.zero_grad()
        ends.append([parameter.full_tensor().detach() for parameter in model.parameters()])
    return ends


@sharded_on_cpus
def test_a_sharded_model_goes_on_inside_an_iteration(tmp_path):
    for whole, loaded in run_on_ranks(sharded_and_loaded, tmp_path):
        assert all(map(torch.equal, whole, loaded))


def sharded_in_all_ways():
    """Weights after three steps of a loss times three: without a pull, not sharded, sharded layer by layer and as a whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def trained(way, strength):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 4))  # 5: shards of unequal size
        mesh = init_device_mesh("cpu", (2,))
        for part in {"layers": [model[1], model[3], model], "whole": [model], "ddp": []}[way]:
            fully_shard(part, mesh=mesh)
        wrapped = DistributedDataParallel(model) if way == "ddp" else model
        purify = PurifyRegularizer.for_model(wrapped, _sampler(8), strength=FixedStrength(strength))
        criterion = purify.criterion(nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        torch.manual_seed(dist.get_rank())
        for step in range(3):
            if step == 1 and way != "ddp":
                purify.critic_step()
                purify.load_state_dict(purify.state_dict(all_ranks=True))
            (3 * criterion(wrapped(torch.rand(6, 3, 8, 8)), torch.randint(4, (6,)))).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [getattr(value, "full_tensor", value.detach)().detach() for value in model.parameters()]

    return [trained("ddp", 0.0), trained("ddp", 2.0), trained("layers", 2.0), trained("whole", 2.0)]


@sharded_on_cpus
def test_a_sharded_model_is_pulled_like_one_that_is_not(tmp_path):
    for none, *pulled in run_on_ranks(sharded_in_all_ways, tmp_path):
        assert max((one - other).abs().max() for one, other in zip(none, pulled[0], strict=True)) > 0.01
        for other in pulled[1:]:
            assert_close(other, pulled[0], rtol=0, atol=1e-6)


class _Dropped(nn.Module):
    """Leaves one of its blocks out at random, as stochastic depth does; every rank and every forward draws anew."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        features = self.first(images)
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.5:
                features = features + block(features)
        return self.head(features)


def dropped():
    torch.manual_seed(0)
    model = _Dropped()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    purify = PurifyRegularizer.for_model(wrapped, _sampler(12), strength=FixedStrength(0.5), every=1)
    criterion = purify.criterion(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.05)
    torch.manual_seed(dist.get_rank())
    for _ in range(12):
        optimizer.zero_grad()
        criterion(wrapped(torch.rand(6, 3, 8, 8)), torch.randint(4, (6,))).backward()
        optimizer.step()
    return {"model": state_of(model), "critic": state_of(purify.critic)}


def test_layers_that_are_dropped_at_random_train_under_ddp_that_finds_unused_parameters(tmp_path):
    first, second = run_on_ranks(dropped, tmp_path)
    assert equal_states(first["model"], second["model"])
    assert equal_states(first["critic"], second["critic"])
