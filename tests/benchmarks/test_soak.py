"""Very long trainings: what counts as growth."""

import pytest
import soak


@pytest.mark.parametrize(("slope", "files", "grown"), [(0.0, 0, False), (soak.FEATURES, 0, True), (0.0, 1, True)])
def test_one_tensor_of_features_a_step_and_one_open_file_are_growth(slope, files, grown):
    readings = [[step, 1e8 + slope * step, 12 + files * (step > 500), 0.01] for step in range(10, 1000, 10)]
    found = soak.summary(readings)
    assert found["bytes"] == pytest.approx(slope, abs=1e-3)
    assert soak.grows(found) == grown


def test_each_form_reads_its_own_process():
    for form in ("without purifying", "tapped"):
        readings = soak.soaked(form, 20)
        assert [reading[0] for reading in readings] == list(range(1, 21))
        assert all(reading[1] > 0 for reading in readings)
