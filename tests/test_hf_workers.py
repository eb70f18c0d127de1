"""group_sampler's workers, randomness and state: the same batches with any number of workers, killed or resumed."""

import copy
import multiprocessing
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_loop import equal_states, small_network, state_of, train

from wdpurify import PurifyRegularizer

datasets = pytest.importorskip("datasets")
from hf_faces import draw, faces, images_of, noisy, stream  # noqa: E402

from wdpurify.integrations.hf_datasets import group_sampler  # noqa: E402

datasets.disable_progress_bars()


@pytest.mark.parametrize("fixed", ["all", True])
def test_batches_and_augmentation_do_not_depend_on_the_number_of_workers(either, fixed):
    options = {"group": "bool", "fixed": fixed, "transform": noisy, "batch_size": 5, "buffer_size": 10}
    alone = images_of(group_sampler(either, **options), 12)
    for num_workers, prefetch in ((1, 1), (2, 3)):
        sampler = group_sampler(either, num_workers=num_workers, prefetch=prefetch, **options)
        assert torch.equal(images_of(sampler, 12), alone)
        sampler.close()
    assert alone[..., 1:].unique().numel() == alone[..., 1:].numel()  # no two rows or draws share a random number
    other = images_of(group_sampler(either, seed=1, **options), 12)
    assert not torch.equal(other, alone)


class OwnGenerators:
    """A random transform that draws from generators of its own, of NumPy and of torch."""

    def __init__(self):
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def __call__(self, image):
        noise = [self.numpy.random(), torch.rand((), generator=self.torch).item()]
        return torch.tensor([image.getpixel((0, 0))[0] / 255, *noise])

    def whole(self, rows):
        return {"image": [self(image) for image in rows["image"]]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_generators_of_a_transform_are_seeded_by_row_and_stay_where_they_were(either, num_workers):
    options = {"group": "bool", "batch_size": 5, "buffer_size": 10}
    alone = images_of(group_sampler(either, transform=OwnGenerators(), **options), 12)
    transform = OwnGenerators()
    sampler = group_sampler(either, transform=transform, num_workers=num_workers, **options)
    first, state = images_of(sampler, 5), sampler.state_dict()
    assert torch.equal(first, alone[:5])
    assert alone[..., 1:].unique().numel() == alone[..., 1:].numel()
    assert transform.numpy.random() == np.random.default_rng(0).random()
    sampler.close()
    resumed = group_sampler(either, transform=transform, num_workers=num_workers, **options)
    resumed.load_state_dict(state)
    assert torch.equal(images_of(resumed, 7), alone[5:])
    resumed.close()


def _losses(kind, strength):
    torch.manual_seed(0)
    transform, task, auxiliary = OwnGenerators(), faces(), faces()
    model, criterion = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)), torch.nn.CrossEntropyLoss()
    given = {"transform": transform} if kind == "transform" else {}
    if kind == "set_transform":
        auxiliary.set_transform(lambda rows: {**rows, **transform.whole(rows)})
    if kind == "collate_fn":
        given = {"collate_fn": lambda images: torch.stack([transform(image) for image in images])}
    if strength is not None:
        sampler = group_sampler(auxiliary, group="name", batch_size=8, **given)
        criterion = PurifyRegularizer.for_model(model, sampler, strength=strength).criterion(criterion)
    batches = [task[start : start + 8] for start in range(0, 48, 8)]
    made = ((torch.stack(transform.whole(rows)["image"]), torch.tensor(rows["name"])) for rows in batches)
    return [criterion(model(images), labels).item() for images, labels in made]


@pytest.mark.parametrize("kind", ["transform", "set_transform", "collate_fn"])
def test_strength_zero_is_bit_identical_where_task_and_auxiliary_rows_share_generators(kind):
    assert _losses(kind, 0.0) == _losses(kind, None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_global_generators_stay_where_they_were(either, num_workers):
    sampler = group_sampler(either, group="bool", transform=noisy, batch_size=4, num_workers=num_workers)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    images_of(sampler, 3)
    sampler.close()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("fixed", ["all", True])
@pytest.mark.parametrize("done", [0, 1, 3, 8, 13])
def test_a_saved_sampler_goes_on_bit_for_bit(either, fixed, done, tmp_path):
    def make():
        return group_sampler(either, group="bool", fixed=fixed, transform=noisy, batch_size=5, buffer_size=9)

    whole, first, resumed = images_of(make(), done + 12), make(), make()
    if done:
        images_of(first, done)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(images_of(resumed, 12), whole[done:])


def test_the_state_with_workers_is_that_of_the_batches_handed_out(either):
    def make(num_workers):
        return group_sampler(either, group="bool", transform=noisy, batch_size=5, buffer_size=9, num_workers=num_workers)

    ahead, alone = make(2), make(0)
    assert torch.equal(images_of(ahead, 7), images_of(alone, 7))
    state = ahead.state_dict()
    assert state == alone.state_dict()
    rest = images_of(ahead, 4)
    ahead.load_state_dict(state)
    assert torch.equal(images_of(ahead, 4), rest)
    ahead.close()
    assert torch.equal(images_of(ahead, 2), images_of(alone, 6)[4:])
    ahead.close()


def test_workers_end_on_close_and_with_the_sampler(either):
    sampler = group_sampler(either, group="bool", batch_size=4, num_workers=1)
    sampler.next_batch()
    assert multiprocessing.active_children()
    sampler.close()
    sampler.close()
    assert not multiprocessing.active_children()
    sampler.next_batch()
    del sampler
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_arrives_and_the_sampler_can_go_on():
    def fails(image):
        if image.getpixel((0, 0))[0] == 7:
            raise ZeroDivisionError("row seven")
        return torch.ones(1)

    sampler = group_sampler(faces(12), group="bool", transform=fails, batch_size=6, num_workers=1)
    with pytest.raises(ZeroDivisionError, match="row seven"):
        images_of(sampler, 2)
    assert not multiprocessing.active_children()
    with pytest.raises(ZeroDivisionError, match="row seven"):
        images_of(sampler, 2)


def test_the_interpreter_ends_quietly_with_samplers_left_open(tmp_path):
    stream(tmp_path, faces())
    script = f"""
from datasets import load_dataset
from wdpurify.integrations.hf_datasets import group_sampler
files = [f"{tmp_path}/{{number}}.parquet" for number in range(3)]
dataset = load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir="{tmp_path}")
alone = group_sampler(dataset, group="bool", fixed=True, batch_size=4, buffer_size=8)
worked = group_sampler(dataset, group="bool", fixed=True, batch_size=4, buffer_size=8, num_workers=1)
alone.next_batch(), worked.next_batch()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_copied_sampler_goes_on_by_itself(tmp_path):
    for dataset, options in ((faces(), {"num_workers": 1}), (stream(tmp_path, faces()), {"buffer_size": 20, "fixed": "x"})):
        sampler = group_sampler(dataset, group="name", batch_size=5, seed=3, **options)
        draw(sampler, 2)
        copied = copy.deepcopy(sampler)
        assert draw(copied, 3) == draw(sampler, 3)
        sampler.close()
        copied.close()


@pytest.mark.parametrize("fixed", ["all", True])
def test_a_regularizer_trains_with_it_and_resumes(either, fixed):
    def make():
        torch.manual_seed(0)
        network = small_network()
        sampler = group_sampler(
            either,
            group="bool",
            fixed=fixed,
            batch_size=8,
            transform=lambda image: torch.rand(3, 8, 8) * image.getpixel((0, 0))[0] / 48,
        )
        return network, PurifyRegularizer(network.features, sampler)

    whole, purify = make()
    train(whole, purify, 14)
    assert purify.metrics().strength > 0
    half, purify = make()
    train(half, purify, 7)
    resumed, again = make()
    resumed.load_state_dict(half.state_dict())
    again.load_state_dict(purify.state_dict())
    train(resumed, again, 7, start=7)
    assert equal_states(state_of(resumed), state_of(whole))
    plain = small_network()
    plain.load_state_dict(make()[0].state_dict())
    train(plain, None, 14)
    assert not equal_states(state_of(plain), state_of(whole))
