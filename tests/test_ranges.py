"""A column of numbers, such as an age, is a quantity: it is cut into ranges of about equal size, and a warning says so."""

import warnings
from collections import Counter

import pytest
import torch

from wdpurify import GroupSampler
from wdpurify.exceptions import AuxiliaryDataWarning


def _sampler(groups, **options):
    return GroupSampler(torch.rand(len(groups), 3), groups, batch_size=8, **options)


AGES = [17 + row % 61 for row in range(488)]


@pytest.mark.parametrize(
    "ages", [AGES, [age + 0.5 for age in AGES], torch.tensor(AGES), torch.tensor(AGES, dtype=torch.float64)]
)
def test_an_age_is_cut_into_four_ranges_of_about_equal_size(ages):
    with pytest.warns(AuxiliaryDataWarning, match="61 different numbers, which are cut into ranges: 17"):
        sampler = _sampler(ages)
    assert sampler.n_groups == 4
    counts = Counter(sampler._group_of_row.tolist())
    assert max(counts.values()) - min(counts.values()) <= 16
    low, high = ([row for row, age in enumerate(AGES) if test(age)] for test in (lambda age: age < 20, lambda age: age > 70))
    assert len({int(sampler._group_of_row[row]) for row in low}) == 1
    assert {int(sampler._group_of_row[row]) for row in low} != {int(sampler._group_of_row[row]) for row in high}


@pytest.mark.parametrize(
    "groups", [[row % 20 for row in range(400)], [str(age) for age in AGES], [row % 2 == 0 for row in range(50)]]
)
def test_few_numbers_and_names_stay_as_they_are(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _sampler(groups).n_groups == len(set(groups))


def test_a_column_that_is_mostly_one_number_has_that_number_and_the_rest():
    with pytest.warns(AuxiliaryDataWarning, match="0 to 0, 1 to 30"):
        sampler = _sampler([0] * 470 + list(range(1, 31)))
    assert sampler.values == ("0 to 0", "1 to 30")


def test_numbers_that_look_alike_when_rounded_have_ranges_of_their_own():
    with pytest.warns(AuxiliaryDataWarning, match="different numbers"):
        assert _sampler([1.0 + 1e-9 * (row % 40) for row in range(400)]).n_groups == 4


def test_a_fixed_number_is_found():
    assert _sampler(AGES, fixed=20).n_groups == 1


def test_ranges_are_drawn_evenly_over_classes():
    with pytest.warns(AuxiliaryDataWarning, match="cut into ranges"):
        sampler = _sampler(AGES, balance=[row % 2 for row in range(488)])
    groups = torch.cat([sampler.next_batch().groups for _ in range(50)])
    assert groups.bincount().tolist() == [100] * 4


def test_the_warning_names_the_column_and_points_to_the_users_line():
    with pytest.warns(AuxiliaryDataWarning, match="column 'age', has 61 different numbers") as record:
        GroupSampler(torch.rand(488, 3), {"age": AGES, "sex": [row % 2 for row in range(488)]})
    assert {warning.filename for warning in record} == {__file__}
