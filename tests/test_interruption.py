"""Saving at any line of an iteration, and going on from there bit for bit."""

import io

import pytest
import torch
from ranks import run_on_ranks
from small_loop import OBJECTIVES, equal_states, small_network, small_sampler, state_of
from torch import nn

from wdpurify import BalancedStrength, PurifyRegularizer
from wdpurify.exceptions import ResumeWarning

LINES = ("critic_step", "loss", "backward", "step")
PARTS = 3


class _Run:
    """The contract's loop over micro-batches, one line of it at a time."""

    def __init__(self, **options):
        torch.manual_seed(0)
        self.network = small_network()
        self.purify = PurifyRegularizer(self.network.features, small_sampler(), feature_dim=6, seed=3, **options)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.05, momentum=0.9)

    def lines(self, step, *, start=0):
        """The lines of one iteration, from one of its micro-batches on; the data depend on step and micro-batch alone."""
        for part in range(start, PARTS):
            generator = torch.Generator().manual_seed(10 * step + part)
            images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
            self.purify.critic_step()
            yield part, "critic_step"
            features = self.network.features(images)
            loss = (nn.functional.cross_entropy(self.network.head(features), labels) + self.purify.loss(features)) / PARTS
            yield part, "loss"
            loss.backward()
            yield part, "backward"
        self.optimizer.step()
        self.optimizer.zero_grad()
        yield PARTS - 1, "step"

    def iterate(self, steps):
        for step in steps:
            for _ in self.lines(step):
                pass

    def saved(self, gradients):
        """What a script saves, through a file."""
        state = {name: getattr(self, name).state_dict() for name in ("network", "purify", "optimizer")}
        state["gradients"] = [parameter.grad for parameter in self.network.parameters()] if gradients else None
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def load(self, saved):
        state = torch.load(io.BytesIO(saved), weights_only=True)
        for name in ("network", "purify", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        if state["gradients"]:
            for parameter, gradient in zip(self.network.parameters(), state["gradients"], strict=True):
                parameter.grad = gradient

    def end(self):
        return state_of(self.network) | {f"critic.{name}": value for name, value in state_of(self.purify.critic).items()}


def _interrupted(at, part, line, *, gradients, **options):
    run = _Run(**options)
    run.iterate(range(at))
    for here in run.lines(at):
        if here == (part, line):
            return run.saved(gradients)
    raise AssertionError(f"there is no line {line} in micro-batch {part}")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_run_saved_between_micro_batches_goes_on_there_with_its_gradients(at, part, objective):
    options = {"objective": objective, "every": 3}
    whole = _Run(**options)
    whole.iterate(range(7))
    saved = _interrupted(at, part, "backward", gradients=True, **options)
    resumed = _Run(**options)
    resumed.load(saved)
    for _ in resumed.lines(at, start=part + 1):
        pass
    resumed.iterate(range(at + 1, 7))
    assert equal_states(whole.end(), resumed.end())


@pytest.mark.parametrize("at", [0, 3, 4])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("line", LINES[:3])
def test_a_run_saved_at_any_line_can_do_that_iteration_again(at, part, line):
    """But for BatchNorm statistics, which the forwards of the interrupted iteration have moved already, as in any script."""
    whole = _Run(every=2)
    whole.iterate(range(7))
    saved = _interrupted(at, part, line, gradients=False, every=2)
    resumed = _Run(every=2)
    resumed.load(saved)
    resumed.iterate(range(at, 7))
    statistics = {name for name in whole.end() if "running" in name or "batches" in name}
    assert equal_states(
        *({name: each.end()[name] for name in each.end() if name not in statistics} for each in (whole, resumed))
    )


def test_between_iterations_no_gradient_is_saved():
    saved = _interrupted(3, PARTS - 1, "step", gradients=False)
    (own,) = torch.load(io.BytesIO(saved), weights_only=True)["purify"]["ranks"]
    assert not any("pull." in name for name in own)


def test_a_loop_that_updates_by_hand_begins_a_new_iteration_after_loading():
    def iterate(network, purify, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
            purify.critic_step()
            features = network.features(images)
            (nn.functional.cross_entropy(network.head(features), labels) + purify.loss(features)).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.05 * parameter.grad
                    parameter.grad = None

    def fresh():
        network = small_network()
        return network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, seed=3)

    torch.manual_seed(0)
    whole, first, second = fresh(), fresh(), fresh()
    first[0].load_state_dict(whole[0].state_dict())
    iterate(*whole, range(6))
    iterate(*first, range(3))
    for mine, saved in zip(second, first, strict=True):
        mine.load_state_dict(saved.state_dict())
    iterate(*second, range(3, 6))
    assert equal_states(state_of(whole[0]), state_of(second[0]))
    assert equal_states(state_of(whole[1].critic), state_of(second[1].critic))
    assert whole[1].sampler.state_dict() == second[1].sampler.state_dict()


def interrupted(all_ranks):
    """On each rank: the run that rank 0, or all, saved between backward and step, and that goes on, beside the whole run."""
    import warnings

    import torch.distributed as dist

    def fresh():
        torch.manual_seed(0)
        network = small_network(norm=False)
        strength = BalancedStrength(2.0, fade=0)  # acts from the second step on, by what each rank has recorded
        purify = PurifyRegularizer(network.features, small_sampler(batch_size=8), feature_dim=6, strength=strength)
        model = nn.parallel.DistributedDataParallel(_Both(network))
        return network, purify, model, torch.optim.SGD(network.parameters(), 0.05)

    def backward(run, step):
        _, purify, model, _ = run
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        purify.critic_step()
        features, scores = model(torch.rand((4, 3, 8, 8), generator=generator))
        (scores.square().mean() + purify.loss(features)).backward()

    def finish(run):
        run[3].step()
        run[3].zero_grad()

    def iterate(run, steps):
        for step in steps:
            backward(run, step)
            finish(run)

    whole = fresh()
    iterate(whole, range(5))
    first = fresh()
    iterate(first, range(2))
    backward(first, 2)
    states = [first[0].state_dict(), first[1].state_dict(all_ranks=all_ranks)]
    dist.broadcast_object_list(states)  # as in a file of rank 0
    again = fresh()
    again[0].load_state_dict(states[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again[1].load_state_dict(states[1])
    for parameter, before in zip(again[0].parameters(), first[0].parameters(), strict=True):
        parameter.grad = before.grad.clone()
    finish(again)
    iterate(again, range(3, 5))
    names = [warning.category.__name__ for warning in caught]
    return names, equal_states(state_of(whole[0]), state_of(again[0])), again[1].sampler.state_dict()["drawn"]


class _Both(nn.Module):
    """Features and scores in one forward, so that it passes the wrapper."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        features = self.network.features(images)
        return features, self.network.head(features)


def test_a_state_of_all_ranks_goes_on_bit_for_bit(tmp_path):
    for names, equal, _ in run_on_ranks(interrupted, tmp_path, True):
        assert names == []
        assert equal


def test_a_state_of_one_rank_goes_on_and_says_that_it_is_not_exact(tmp_path):
    (own, _, first_drew), (other, _, second_drew) = run_on_ranks(interrupted, tmp_path, False)
    assert own == []
    assert other == [ResumeWarning.__name__]
    assert first_drew == second_drew == 5


def after_a_skipped_step():
    """On each rank: a run goes on from what rank 0 saved after a step that a scaler skipped; how many batches were drawn."""
    import warnings

    import torch.distributed as dist

    torch.manual_seed(0)
    network = small_network(norm=False)
    model = nn.parallel.DistributedDataParallel(_Both(network))
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    purify = PurifyRegularizer(network.features, small_sampler(batch_size=8), feature_dim=6)

    def step(skipped=False):
        purify.critic_step()
        features, scores = model(torch.rand(4, 3, 8, 8))
        (scores.square().mean() + purify.loss(features)).backward()
        if not skipped:
            optimizer.step()
        optimizer.zero_grad()

    step()
    step(skipped=True)
    states = [purify.state_dict()]
    dist.broadcast_object_list(states)
    purify = PurifyRegularizer(network.features, small_sampler(batch_size=8), feature_dim=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResumeWarning)
        purify.load_state_dict(states[0])
    step()
    step()
    return purify.sampler.state_dict()["drawn"]


def test_ranks_stay_together_after_a_state_of_one_that_was_saved_inside_an_iteration(tmp_path):
    assert run_on_ranks(after_a_skipped_step, tmp_path) == [4, 4]


def test_a_loop_by_hand_saved_with_its_gradients_draws_as_often_as_the_whole_run():
    def fresh():
        torch.manual_seed(0)
        network = small_network()
        return network, PurifyRegularizer(network.features, small_sampler(), feature_dim=6, seed=3)

    def backward(network, purify, step):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)
        purify.critic_step()
        features = network.features(images)
        (nn.functional.cross_entropy(network.head(features), labels) + purify.loss(features)).backward()

    def update(network):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.05 * parameter.grad
                parameter.grad = None

    whole, first, second = fresh(), fresh(), fresh()
    for step in range(6):
        backward(*whole, step)
        update(whole[0])
    for step in range(3):
        if step:
            update(first[0])
        backward(*first, step)
    for mine, saved in zip(second, first, strict=True):
        mine.load_state_dict(saved.state_dict())
    for parameter, before in zip(second[0].parameters(), first[0].parameters(), strict=True):
        parameter.grad = before.grad.clone()
    update(second[0])
    for step in range(3, 6):
        backward(*second, step)
        update(second[0])
    assert whole[1].sampler.state_dict() == second[1].sampler.state_dict()
    assert equal_states(state_of(whole[0]), state_of(second[0]))
