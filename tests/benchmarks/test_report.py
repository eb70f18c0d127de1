"""What a report says of runs: gains paired by seed, shares of the gap, intervals."""

import numpy as np
from purifybench.report import Estimate, estimate, markdown_table, share, summarise, verdict
from torch.testing import assert_close


def _record(row, seed, shifted, milliseconds=5.0):
    key = {"row": row, "settings": {"seed": seed}}
    accuracy = {"validation": 99.0, "clean": 90.0, "shifted": shifted}
    return {"key": key, "accuracy": accuracy, "seconds_per_step": milliseconds / 1e3}


def test_report_pairs_gains_by_seed_and_relates_them_to_the_upper_bound():
    records = [_record("plain", seed, 50.0 + seed) for seed in range(3)]
    records += [_record("upper bound", seed, 90.0 + seed) for seed in range(3)]
    records += [_record("ours", seed, 80.0 + seed) for seed in range(3)]
    rows = {row.method: row for row in summarise(records)}
    assert rows["ours"].gain == Estimate(30.0, 0.0)
    assert rows["ours"].recovered.mean == 75.0
    assert rows["plain"].gain is None
    assert rows["upper bound"].recovered is None
    assert rows["ours"].milliseconds == 5.0
    table = markdown_table(list(rows.values()))
    assert "| ours | 90.0 ± 0.0 | 81.0 ± 2.5 | +30.0 ± 0.0 | 75.0 ± 0.0 | 5.0 |" in table


def test_recovered_share_is_a_ratio_of_paired_means():
    gains, gaps = [30.0, 45.0, 60.0], [40.0, 60.0, 80.0]
    assert share(gains, gaps) == Estimate(75.0, 0.0)  # the same share on every seed: no doubt about it
    assert share([30.0, 45.0, 50.0], gaps).half_width > 5.0


def test_no_share_is_given_of_a_gap_that_may_be_zero():
    records = [_record("plain", seed, 90.0) for seed in range(3)]
    records += [_record("upper bound", seed, 90.0 + change) for seed, change in enumerate((-1.0, 0.5, 1.0))]
    records += [_record("ours", seed, 91.0) for seed in range(3)]
    rows = {row.method: row for row in summarise(records)}
    assert rows["ours"].recovered is None
    assert rows["ours"].gain.mean == 1.0


def test_what_was_gained_is_said_with_its_sign_or_as_nothing_for_sure():
    def said(gains):
        records = [_record("plain", seed, 50.0) for seed in range(3)]
        return verdict(summarise([*records, *(_record("wdpurify", seed, 50.0 + gain) for seed, gain in enumerate(gains))]))

    assert said((20.0, 21.0, 22.0)).startswith(
        "Purifying gained +21.0 points on the shifted set (50.0 to 71.0 %), and went from 90"
    )
    assert said((-20.0, -21.0, -22.0)).startswith("Purifying lost -21.0 points")
    assert said((-20.0, 21.0, 2.0)).startswith("Purifying changed nothing for sure: +1.0 points")
    assert verdict(summarise([_record("plain", 0, 50.0)])) == ""


def test_interval_is_students():
    assert_close(estimate([1.0, 2.0, 3.0]).half_width, 4.302653 * 1.0 / np.sqrt(3), rtol=1e-6, atol=0)
    assert str(estimate([4.0])) == "4.0"
