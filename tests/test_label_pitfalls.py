"""Labels that look right and are not: each is refused, or read as it is meant."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from wdpurify import GroupSampler, PurifyRegularizer, TwoSided, balanced_weights
from wdpurify.functional import group_gap

ROWS = torch.arange(40.0)[:, None]
SITE, SEX = ["north", "south"] * 20, ["f", "f", "m", "m"] * 10


def test_a_column_of_single_rows_is_refused_among_several_columns_too():
    frame = pd.DataFrame({"site": SITE, "file": [f"{row}.png" for row in range(40)]})
    with pytest.raises(ValueError, match=r"`groups`, column 'file', has 40 values in 40 rows, so most groups are a single row"):
        GroupSampler(ROWS, frame, batch_size=4)
    assert GroupSampler(ROWS, frame[["site"]], batch_size=4).n_groups == 2


@pytest.mark.parametrize("missing", [float("nan"), pd.NA, pd.NaT], ids=["nan", "NA", "NaT"])
def test_a_tuple_with_a_missing_part_is_refused(missing):
    labels = [*zip(SITE, SEX, strict=True)]
    labels[3] = ("north", missing)
    for call in (lambda: GroupSampler(ROWS, labels, batch_size=4), lambda: balanced_weights(labels, [0, 1] * 20)):
        with pytest.raises(ValueError, match=r"row 3 .*has a missing part\. Give the columns themselves"):
            call()


def test_weights_of_several_columns_are_those_of_their_combinations():
    classes = [0, 0, 1, 1, 1] * 8
    expected = balanced_weights([*zip(SITE, SEX, strict=True)], classes)
    frame = pd.DataFrame({"site": SITE, "sex": SEX})
    for columns in (frame, {"site": SITE, "sex": SEX}, [SITE, SEX]):
        assert_close(balanced_weights(columns, classes), expected)
    frame.loc[0, "sex"] = None
    assert len(balanced_weights(frame, classes)) == 40


def test_names_of_rows_are_asked_for_where_a_mapping_has_no_row_numbers():
    labels = {f"{row}.png": site for row, site in enumerate(SITE)}
    with pytest.raises(TypeError, match=r"give `\[groups\[name\] for name in names\]`, with the rows' names in their order"):
        GroupSampler(ROWS, labels)
    with pytest.raises(TypeError, match=r"`\[groups\[row\] for row in range\(len\(rows\)\)\]`"):
        GroupSampler(ROWS, dict(enumerate(SITE)))


@pytest.mark.parametrize(
    "name", ["camera.csv", "Folder/CAMERA.CSV", "camera.tsv", "camera.json", "camera.jsonl", Path("folder", "camera.csv")]
)
def test_a_file_of_labels_is_to_be_read_by_a_line_that_reads_it(name, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"got the file '.*'\. Read it, for example `pd\.read_\w+\(.*\)") as caught:
        GroupSampler(ROWS, name)
    monkeypatch.chdir(tmp_path)
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    frame = pd.DataFrame({"label": SITE, "sex": SEX})
    if file.suffix.startswith(".json"):
        frame.to_json(file, orient="records", lines=file.suffix == ".jsonl")
    else:
        frame.to_csv(file, sep="\t" if file.suffix == ".tsv" else ",", index=False)
    assert eval(str(caught.value).split("`")[3], {"pd": pd}) == SITE


def test_keys_of_numpy_are_row_numbers_and_a_set_has_no_order():
    with pytest.raises(TypeError, match=r"`\[groups\[row\] for row in range\(len\(rows\)\)\]`"):
        GroupSampler(ROWS, dict(pd.Series(SITE).items()) | {np.int64(40): "north"})
    with pytest.raises(TypeError, match=r"got set\. Give a list of labels in the order of the rows$"):
        GroupSampler(ROWS, set(SITE))


def test_a_column_of_another_length_is_named():
    for columns in ({"site": SITE, "sex": SEX[1:]}, [SITE, SEX[1:]]):
        with pytest.raises(ValueError, match=r"must hold 40 labels per column, one per row, got 39 in column ('sex'|1)\."):
            GroupSampler(ROWS, columns)


def test_a_sampler_is_refused_as_rows_and_labels_because_it_never_ends():
    sampler = GroupSampler(ROWS, SITE, batch_size=4)
    for call in (
        lambda: GroupSampler(sampler, SITE),
        lambda: GroupSampler(ROWS, sampler),
        lambda: GroupSampler(ROWS, SITE, balance=sampler),
    ):
        with pytest.raises(TypeError, match="got a sampler, whose batches never end"):
            call()


def test_weights_take_classes_that_are_read_once():
    assert_close(balanced_weights(SITE, (row % 3 for row in range(40))), balanced_weights(SITE, [row % 3 for row in range(40)]))


def test_objectives_of_ones_own_get_several_labels_and_the_gap_reads_them():
    class Own(TwoSided):
        pass

    def trained(objective):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        sampler = GroupSampler(ROWS / 40, {"site": SITE, "sex": SEX}, batch_size=8)
        purify = PurifyRegularizer.for_model(net, sampler, objective=objective)
        criterion = purify.criterion(torch.nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(4):
            loss = criterion(net(ROWS / 40), torch.arange(40) % 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return net[0].weight.detach(), purify.metrics().estimate

    for ours, own in zip(trained(TwoSided()), trained(Own()), strict=True):
        assert_close(ours, own)
    groups = torch.tensor([[0, 2], [1, 2], [-1, 3]])
    scores = torch.eye(4)[:3]
    with pytest.raises(ValueError, match="`scores` must have shape"):
        group_gap(scores[:2], groups, torch.ones(3, dtype=torch.bool))
    assert_close(group_gap(scores, groups, torch.ones(3, dtype=torch.bool)), torch.tensor(0.25))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors take notes from Python 3.11 on")
def test_texts_without_a_tokenizer_are_named():
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    purify = PurifyRegularizer.for_model(net, GroupSampler([f"a text {row}" for row in range(40)], SITE, batch_size=4))
    with pytest.raises(TypeError) as caught:
        purify.critic_step()
    assert any("the auxiliary rows are texts: give your tokenizer as `collate_fn=`" in note for note in caught.value.__notes__)
