"""Random sequences of what a loop may do and a data set may hold: a result or a named error, and nothing is ruined by it.

`make soak` runs 10,000 of them, a thousand for each of ten seeds.
"""

import copy
import math
import warnings

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_loop import small_network
from torch import nn

from wdpurify import BalancedStrength, GroupBatch, OneSided, PurifyRegularizer, TwoSided
from wdpurify.exceptions import PurifyWarning

GROUPS = 3
ROWS = 8
WRONG_WIDTH = 5
#: What a row of images may hold.
HOLDINGS = {"ordinary": 1.0, "not a number": math.nan, "infinite": math.inf, "huge": 1e30, "denormal": 1e-42, "zero": 0.0}


class _Source:
    """A sampler whose next batches are what the test says."""

    n_groups = GROUPS

    def __init__(self):
        self.drawn = 0
        self.rows = ROWS
        self.holding = "ordinary"
        self.spoilt = ROWS
        self.groups = tuple(range(GROUPS))
        self.fails = False

    def next_batch(self):
        if self.fails:
            raise OSError("a broken file")
        generator = torch.Generator().manual_seed(self.drawn)
        self.drawn += 1
        images = torch.rand((self.rows, 3, 8, 8), generator=generator)
        if self.holding != "ordinary":
            images[: self.spoilt] *= HOLDINGS[self.holding]
        groups = torch.tensor([self.groups[row % len(self.groups)] for row in range(self.rows)], dtype=torch.int64)
        return GroupBatch(images, groups, torch.ones(self.rows, dtype=torch.bool))

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = int(state["drawn"])


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        network = small_network(dropout=0.1)
        self.body = network.features
        self.head = network.head

    def forward(self, images):
        return self.head(self.body(images))


class Rubbish(RuleBasedStateMachine):
    """A training, its loop in any order and its data of any kind."""

    @initialize(
        tapped=st.booleans(),
        objective=st.sampled_from([TwoSided(), OneSided()]),
        every=st.integers(1, 3),
        update_statistics=st.booleans(),
        optimizer=st.sampled_from(["sgd", "adamw"]),
    )
    def begin(self, tapped, objective, every, update_statistics, optimizer):
        torch.manual_seed(0)
        self.model = _Model()
        self.source = _Source()
        options = {"objective": objective, "every": every, "update_statistics": update_statistics}
        options["strength"] = BalancedStrength(1.0)
        if tapped:
            self.purify = PurifyRegularizer.for_model(self.model, self.source, **options)
            self.criterion = self.purify.criterion(nn.CrossEntropyLoss())
        else:
            self.purify = PurifyRegularizer(self.model.body, self.source, feature_dim=6, **options)
            self.criterion = None
        kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        self.optimizer = kinds[optimizer](self.model.parameters(), 1e-2)
        self.saved = copy.deepcopy(self.purify.state_dict())
        self.sampled = 0
        warnings.simplefilter("ignore", PurifyWarning)
        warnings.simplefilter("ignore", UserWarning)  # torch's, on batches without a row

    def _everything(self):
        state = self.purify.state_dict()
        return [*self.model.state_dict().values(), *_tensors([state["critic"], state["optimizer"], state["spread"]])]

    def _loss(self, images, labels):
        if self.criterion is not None:
            return self.criterion(self.model(images), labels)
        self.purify.critic_step()
        features = self.model.body(images)
        return nn.functional.cross_entropy(self.model.head(features), labels) + self.purify.loss(features)

    def _refused(self, call, *errors):
        """Something that must be refused, and must leave all as it was."""
        before = [value.clone() for value in self._everything()]
        try:
            call()
        except errors:
            pass
        else:
            raise AssertionError("it was not refused")
        for old, new in zip(before, self._everything(), strict=True):
            assert torch.equal(old, new)

    @rule(rows=st.sampled_from([2, 3, 7]), steps=st.booleans(), micro_batches=st.integers(1, 2))
    def train(self, rows, steps, micro_batches):
        """An iteration, perhaps one whose step is skipped."""
        if self.source.fails or self.source.rows == 0:
            return
        self.sampled += 1
        for part in range(micro_batches):
            generator = torch.Generator().manual_seed(2 * self.sampled + part)
            images = torch.rand((rows, 3, 8, 8), generator=generator)
            loss = self._loss(images, torch.randint(4, (rows,), generator=generator))
            if loss.requires_grad:
                (loss / micro_batches).backward()
        if steps and any(parameter.grad is not None for parameter in self.model.parameters()):
            self.optimizer.step()
        self.optimizer.zero_grad()

    @rule()
    def train_on_bad_rows(self):
        """The task's own rows are spoilt: as a GradScaler would, the loop does not step."""
        if self.source.fails or not self.model.training:
            return
        running = {name: value.clone() for name, value in self.model.named_buffers()}
        loss = self._loss(torch.full((4, 3, 8, 8), math.nan), torch.zeros(4, dtype=torch.int64))
        if loss.requires_grad:
            loss.backward()
        self.optimizer.zero_grad()
        with torch.no_grad():  # what the task's own rows did to the statistics is no affair of the regularizer
            for name, value in self.model.named_buffers():
                value.copy_(running[name])

    @rule(holding=st.sampled_from(sorted(HOLDINGS)), spoilt=st.sampled_from([1, ROWS]))
    def spoil_rows(self, holding, spoilt):
        self.source.holding = holding
        self.source.spoilt = spoilt

    @rule(rows=st.sampled_from([1, 2, ROWS, 3 * ROWS]))
    def change_batch_size(self, rows):
        self.source.rows = rows

    @rule(groups=st.sampled_from([(0,), (0, 2), (-1,), tuple(range(GROUPS))]))
    def change_groups(self, groups):
        self.source.groups = groups

    @rule()
    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            if self.criterion is not None:
                self.criterion(self.model(torch.rand(3, 3, 8, 8)), torch.zeros(3, dtype=torch.int64))
            else:
                assert self.purify.loss(self.model.body(torch.rand(3, 3, 8, 8))) == 0
        self.model.train()

    @rule(frozen=st.booleans())
    def freeze_the_body(self, frozen):
        self.model.body.requires_grad_(not frozen)

    @rule()
    def forward_without_a_loss(self):
        self.model(torch.rand(3, 3, 8, 8))

    @rule()
    def announce_a_pass_that_does_not_come(self):
        if not self.source.fails:
            self.purify.critic_step()

    @rule(width=st.just(WRONG_WIDTH))
    def features_of_a_wrong_width(self, width):
        self._refused(lambda: self.purify.loss(torch.rand(4, width, requires_grad=True)), ValueError)

    @rule()
    def features_that_are_none(self):
        self._refused(lambda: self.purify.loss([1.0]), TypeError)

    @rule()
    def source_that_fails(self):
        self.optimizer.zero_grad()
        self.purify.optimizer_stepped()
        self.source.fails = True
        before = [value.clone() for value in self._everything()]
        for _ in range(3):  # one of them acts
            try:
                self.purify.critic_step()
            except OSError:
                break
            self.purify.optimizer_stepped()
        self.source.fails = False
        for old, new in zip(before, self._everything(), strict=True):
            assert torch.equal(old, new)

    @rule()
    def save(self):
        self.saved = copy.deepcopy(self.purify.state_dict())

    @rule()
    def load(self):
        self.purify.load_state_dict(self.saved)

    @rule(entry=st.sampled_from(["critic", "optimizer", "ranks", "options", "version"]))
    def load_what_is_damaged(self, entry):
        damaged = {name: value for name, value in copy.deepcopy(self.saved).items() if name != entry}
        self._refused(lambda: self.purify.load_state_dict(damaged), ValueError)

    @rule()
    def load_what_is_not_finite(self):
        damaged = copy.deepcopy(self.saved)
        next(iter(damaged["critic"].values())).fill_(math.nan)
        self._refused(lambda: self.purify.load_state_dict(damaged), ValueError)

    @precondition(lambda self: hasattr(self, "purify"))
    @invariant()
    def nothing_is_ruined(self):
        assert all(value.isfinite().all() for value in self._everything() if value.is_floating_point())
        assert not math.isinf(self.purify.strength.task_norm)
        self.purify.metrics()
        own = self.purify.state_dict()["ranks"][0]
        assert all(value.isfinite() for name, value in own.items() if ".separation." in name)
        assert all(parameter.grad is None for parameter in self.purify.critic.parameters())
        assert sum(len(part._forward_pre_hooks) for part in self.model.modules()) == (self.criterion is not None)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


TestRubbish = Rubbish.TestCase
TestRubbish.settings = settings(max_examples=max(100, settings().max_examples))
