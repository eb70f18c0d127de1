"""The picture of the features: what it measures, what it leaves alone, and how it looks with names and values of any kind."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("sklearn")
from wdpurify.audit import feature_map, leakage
from wdpurify.audit._feature_map import MOST, projected
from wdpurify.audit._feature_plot import COLOURS, MARKS

FAST = {"projection": "pca", "permutations": 2}
HOSTILE = "$x_{$ [red]|<script>\x1b[31m`*\nnext" + "n" * 10_000


def _rows(count=80):
    generator = torch.Generator().manual_seed(0)
    hair = torch.arange(count) % 2
    mood = torch.arange(count) // 2 % 2
    plain = torch.randn(count, 6, generator=generator)
    plain[:, 0] += 6 * hair
    plain[:, 1] += 6 * mood
    purified = plain.clone()
    purified[:, 0] = torch.randn(count, generator=generator)
    return {"plain": plain, "purified": purified}, mood, hair


def test_leakage_falls_where_the_nuisance_is_gone_and_the_class_is_kept():
    models, mood, hair = _rows()
    found = feature_map(models, None, mood, hair, class_name="mood", nuisance_name="hair", permutations=5)
    plain, purified = found.models
    assert plain.leakage == leakage(None, models["plain"], hair, permutations=5)
    assert plain.leakage.balanced_accuracy > 0.95 > 0.75 > purified.leakage.balanced_accuracy
    assert min(plain.kept.balanced_accuracy, purified.kept.balanced_accuracy) > 0.95
    assert str(found).startswith(f"plain: hair {plain.leakage}")
    panels = found.figure().axes
    assert [axes.get_ylabel() for axes in panels] == ["by mood", "", "", "by hair", "", ""]
    titles = [axes.get_title() for axes in panels]
    kept = f"{100 * plain.kept.balanced_accuracy:.0f} % (chance {100 * plain.kept.baseline:.0f} %)"
    assert titles[0] == f"plain\nprobe: {kept}"
    assert re.fullmatch(r"purified\nleakage: \d\d % \(chance \d\d %\)", titles[4])


def test_points_keep_neighbours_or_variance():
    models, mood, hair = _rows()
    near = projected(models["plain"], "tsne", 0)
    own = torch.cdist(near, near).fill_diagonal_(torch.inf).argmin(1)
    assert (hair[own] == hair).float().mean() > 0.95
    flat = projected(models["plain"], "pca", 0)
    centred = models["plain"] - models["plain"].mean(0)
    torch.testing.assert_close(flat.var(0), torch.linalg.svdvals(centred)[:2].square() / (len(mood) - 1))


@pytest.mark.parametrize("projection", ["tsne", "pca"])
@pytest.mark.parametrize("features", [torch.ones(24, 4), torch.arange(24.0)[:, None]], ids=["collapsed", "one wide"])
def test_features_of_hardly_any_dimension_are_drawn(features, projection):
    points = projected(features, projection, 0)
    assert points.shape == (24, 2)
    assert points.isfinite().all()
    assert len(points[:, 0].unique()) == len(features.unique())


def test_the_seed_decides_and_nothing_of_the_users_is_changed():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 2)).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(60, 3, 2, 2)
    hair = torch.arange(60) % 2
    np.random.seed(0)  # noqa: NPY002 - the global state is what must stay
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    options = {"permutations": 2, "max_rows": 50}
    first, again, other = (feature_map({"net": model}, images, hair, hair, **options, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.models[0].points, again.models[0].points)
    assert first.models[0].leakage == again.models[0].leakage
    assert not torch.equal(first.models[0].points, other.models[0].points)
    assert first.models[0].points.shape == (50, 2)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_a_layer_or_a_function_may_say_where_features_are():
    images = torch.rand(60, 3, 2, 2)
    hair = torch.arange(60) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    named = feature_map({"net": model}, images, hair, hair, layer="1", **FAST)
    called = feature_map({"net": model}, images, hair, hair, features=lambda _, x: x.flatten(1), device="cpu", **FAST)
    usual = feature_map({"net": model}, images, hair, hair, **FAST)
    assert torch.equal(named.models[0].points, called.models[0].points)
    assert not torch.equal(named.models[0].points, usual.models[0].points)


def test_twenty_values_have_looks_of_their_own_and_the_rest_is_grey():
    assert len(COLOURS) * len(MARKS) >= MOST
    cells = [f"{value:02}" for value in range(30) for _ in range(11 if value < MOST else 10)] + [None]
    found = feature_map({"net": torch.randn(len(cells), 3)}, None, [0] * len(cells), cells, nuisance_name="who", **FAST)
    assert found.nuisance.values == tuple(f"{value:02}" for value in range(MOST))
    assert (found.nuisance.others, int((found.nuisance.codes < 0).sum())) == (10, 101)
    assert found.models[0].leakage.values == 30
    assert found.models[0].kept is None  # of one class
    classes, who = (axes.get_legend() for axes in found.figure().axes if axes.get_legend())
    assert [text.get_text() for text in classes.get_texts()] == ["0"]
    assert [text.get_text() for text in who.get_texts()] == [*(f"{value:02}" for value in range(MOST)), "10 other values"]
    figure = found.figure()
    figure.draw_without_rendering()
    legend = [axes.get_legend() for axes in figure.axes if axes.get_legend()][1].get_window_extent()
    panel = figure.axes[2].get_window_extent()
    assert figure.bbox.contains(legend.x1, legend.y0)
    assert panel.height > 0.3 * figure.bbox.height
    looks = {(mark.get_color(), mark.get_marker()) for mark in who.legend_handles}
    assert len(looks) == MOST + 1


def test_rows_without_a_value_are_grey_and_values_of_several_kinds_are_taken():
    cells = ["a", 1, None] * 20
    found = feature_map({"net": torch.randn(60, 3)}, None, cells, cells, **FAST)
    assert found.nuisance.values == ("1", "a")
    assert found.models[0].leakage.rows == 40
    who = [axes.get_legend() for axes in found.figure().axes if axes.get_legend()][1]
    assert who.get_texts()[-1].get_text() == "no value"


def test_names_and_values_are_shown_harmlessly(tmp_path):
    cells = [HOSTILE, "\x1b]0;title\x07b"] * 30
    found = feature_map(
        {HOSTILE: torch.randn(60, 3)}, None, cells, cells, class_name=HOSTILE, nuisance_name="\x1b[31m\n" + HOSTILE, **FAST
    )
    found.plot(tmp_path / "features.png")
    with Image.open(tmp_path / "features.png") as picture:
        assert picture.width < 1200
    assert not set("\x1b\x07\n") & set(str(found))
    assert len(str(found)) < 2_000


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": {}}, ValueError, "`models` must name at least one model"),
        ({"models": {"a": "resnet18"}}, TypeError, "torch modules or features, got str for 'a'"),
        ({"models": {"a": torch.zeros(40, 3, 2)}}, ValueError, r"of shape \(rows, dim\), got \(40, 3, 2\) for 'a'"),
        ({"models": {"a": torch.full((40, 3), torch.nan)}}, ValueError, "features must be finite"),
        ({"models": {"a": torch.zeros(39, 3)}}, ValueError, "as many rows each, got 39 of the features of 'a', 40 of"),
        ({"rows": torch.zeros(41, 3)}, ValueError, "41 of `rows`"),
        ({"models": {"a": nn.Linear(3, 2)}}, TypeError, "`rows` must hold what the model 'a' reads, got None"),
        ({"nuisance": [0] * 40}, ValueError, "`nuisance` must have two values or more to tell apart, got: all rows"),
        ({"projection": "umap"}, ValueError, "`projection` must be one of 'tsne', 'pca', got 'umap'"),
        ({"permutations": 0}, ValueError, "`permutations` must be at least 1"),
        ({"max_rows": 0}, ValueError, "`max_rows` must be at least 1"),
    ],
)
def test_wrong_inputs_are_named(changes, error, message):
    halves = [0, 1] * 20
    given = {"models": {"a": torch.zeros(40, 3)}, "rows": None, "classes": halves, "nuisance": halves} | FAST | changes
    with pytest.raises(error, match=message):
        feature_map(**given)
