"""group_sampler over streams: order, ranks, buffers, and what cannot be drawn."""

import pytest
import torch

datasets = pytest.importorskip("datasets")
from datasets import Features, IterableDataset, Value  # noqa: E402
from datasets.distributed import split_dataset_by_node  # noqa: E402
from hf_faces import ROWS, draw, faces, rows_of, stream  # noqa: E402

from wdpurify.integrations.hf_datasets import group_sampler  # noqa: E402

datasets.disable_progress_bars()


@pytest.fixture
def streamed(tmp_path):
    return stream(tmp_path, faces())


def test_a_state_of_another_stream_sampler_is_refused(streamed):
    state = group_sampler(streamed, group="bool", batch_size=4).state_dict()
    for options, message in (
        ({"batch_size": 5}, "`batch_size` 4, this sampler has 5"),
        ({"seed": 1}, "`seed` 0, this"),
        ({"buffer_size": 7}, "`buffer_size` 1000"),
        ({"fixed": True}, "`fixed` 'all'"),
    ):
        with pytest.raises(ValueError, match=message):
            group_sampler(streamed, group="bool", **({"batch_size": 4} | options)).load_state_dict(state)


# Streams


@pytest.mark.parametrize("fixed", ["all", "x"])
def test_a_stream_gives_every_row_once_an_epoch_and_the_groups_rows_first(streamed, fixed):
    sampler = group_sampler(streamed, group="name", fixed=fixed, batch_size=4, buffer_size=10)
    batches = [sampler.next_batch() for _ in range(24)]
    first = 0 if fixed == "all" else 4
    population = [row for batch in batches for row in rows_of(batch)[first:]]
    assert sorted(population[:ROWS]) == sorted(population[ROWS:]) == list(range(ROWS))
    assert population[:ROWS] != population[ROWS:]
    if fixed == "x":
        group = [row for batch in batches for row in rows_of(batch)[:4]]
        assert sorted(group[: ROWS // 3]) == sorted(group[ROWS // 3 : 2 * ROWS // 3]) == list(range(0, ROWS, 3))
        assert all(batch.groups.tolist() == [0] * 4 + [-1] * 4 for batch in batches)
        assert all(batch.population.tolist() == [False] * 4 + [True] * 4 for batch in batches)
    else:
        assert all(
            row % 3 == group for batch in batches for row, group in zip(rows_of(batch), batch.groups.tolist(), strict=True)
        )


def test_the_order_of_a_stream_depends_on_seed_and_buffer(streamed):
    def rows(**options):
        return draw(group_sampler(streamed, group="bool", **({"batch_size": 6, "buffer_size": 12} | options)), 8)

    assert rows() == rows()
    assert rows() != rows(seed=1)
    assert rows() != rows(buffer_size=24)
    assert {rows(buffer_size=1, seed=seed)[0][0] // 16 for seed in range(12)} == {0, 1, 2}  # any file may come first


def test_a_stream_is_read_no_further_than_its_buffers(monkeypatch):
    read = []

    def generate():
        for row in range(10_000):
            read.append(row)
            yield {"image": [float(row)], "rare": row % 10 == 0}

    dataset = IterableDataset.from_generator(
        generate, features=Features({"image": datasets.Sequence(Value("float32")), "rare": Value("bool")})
    )
    sampler = group_sampler(dataset, group="rare", fixed=True, batch_size=2, buffer_size=30)
    sampler.next_batch()
    assert len(read) <= 60
    for _ in range(20):
        sampler.next_batch()
    assert len(read) <= 20 * 21 + 20 * 2 + 120


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("fixed", ["all", True])
def test_two_ranks_share_no_row_of_an_epoch_and_together_see_all(tmp_path, shards, fixed):
    dataset = stream(tmp_path, faces(), shards)
    options = {"group": "bool", "fixed": fixed, "batch_size": 4, "buffer_size": 10, "world_size": 2}
    ranks = [group_sampler(dataset, rank=rank, **options) for rank in range(2)]
    seen = [[row for rows in draw(sampler, 6) for row in rows[-4:]] for sampler in ranks]
    assert sorted(seen[0] + seen[1]) == list(range(ROWS))
    resumed = group_sampler(dataset, rank=1, **options)
    resumed.load_state_dict(ranks[1].state_dict())
    assert draw(resumed, 9) == draw(ranks[1], 9)
    with pytest.raises(ValueError, match="`world_size` 2, this sampler has 1"):
        group_sampler(dataset, **(options | {"world_size": None})).load_state_dict(resumed.state_dict())


def test_ranks_come_from_torch_distributed_and_a_split_stream_is_not_split_again(streamed, monkeypatch):
    given = draw(group_sampler(streamed, group="bool", batch_size=4, rank=1, world_size=2), 6)
    sampler = group_sampler(streamed, group="bool", batch_size=4)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert draw(sampler, 6) == given
    assert draw(group_sampler(split_dataset_by_node(streamed, 1, 2), group="bool", batch_size=4), 6) == given


def test_a_stream_without_known_features_needs_values_only():
    rows = [{"image": torch.full((3, 2, 2), row / 255), "kind": "ab"[row % 2]} for row in range(8)]
    sampler = group_sampler(IterableDataset.from_generator(lambda: iter(rows)), group="kind", values=["b", "a"], batch_size=8)
    batch = sampler.next_batch()
    assert sampler.values == ("b", "a")
    assert [row % 2 for row in rows_of(batch)] == [1 - group for group in batch.groups.tolist()]
    with pytest.raises(ValueError, match=r"no column 'tone'. Choose from 'image', 'kind'"):
        group_sampler(IterableDataset.from_generator(lambda: iter(rows)), group="tone", fixed="a").next_batch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "text"}, '`values` must list the labels of a stream with `fixed="all"`'),
        ({"group": "text", "values": ["p", "q"]}, r"every label that occurs, got \['p', 'q'\] and a row with 'r'"),
        ({"group": "text", "values": ["p", "q", "r", "s"]}, "read to its end, has no row labelled 's'.*'p': 16"),
        ({"group": "text", "fixed": "s"}, "read to its end, has no row labelled 's'.*'p': 16"),
        ({"group": "text", "fixed": "p", "batch_size": 17}, "has 16 rows for the group, fewer than `batch_size` 17"),
        ({"group": "name", "batch_size": 49}, "has 48 rows for the population, fewer than `batch_size` 49"),
        ({"group": "name", "fixed": "w"}, r"`fixed` must be a label value of \['x', 'y', 'z'\], got 'w'"),
        ({"group": "one", "fixed": 1}, "at least two label values, got one.*rows per value: 1: 48"),
        ({"group": "none", "unlabelled": "drop", "fixed": 1}, "has no row labelled 1.*dropped as missing: 48"),
        ({"group": "name", "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"group": "name", "buffer_size": 0}, "`buffer_size` must be at least 1, got 0"),
        ({"group": "name", "prefetch": 0}, "`prefetch` must be at least 1, got 0"),
        ({"group": "name", "rank": 1}, "`rank` and `world_size` must both be given"),
    ],
)
def test_streams_that_cannot_give_the_groups_raise_with_counts(tmp_path, options, message):
    dataset = stream(tmp_path, faces(one=[1] * ROWS, none=[None] * ROWS), 1)
    with pytest.raises(ValueError, match=message):
        draw(group_sampler(dataset, **({"batch_size": 4} | options)), 25)


def test_a_value_that_does_not_occur_is_searched_for_no_longer_than_stated(tmp_path, monkeypatch):
    monkeypatch.setattr("wdpurify.integrations._streaming.LONGEST_SEARCH", 20)
    with pytest.raises(ValueError, match=r"read to row 20, has no row labelled 's'.*'p': 7"):
        draw(group_sampler(stream(tmp_path, faces(), 1), group="text", fixed="s", batch_size=4), 25)


def test_a_shuffled_stream_is_refused(streamed):
    for shuffled in (streamed.shuffle(seed=0), streamed.shuffle(seed=0).map(lambda row: row)):
        with pytest.raises(ValueError, match=r"must not use `shuffle\(\)`.*Set `buffer_size`"):
            group_sampler(shuffled, group="bool", fixed=True)
