"""A table whose columns depend on where they were measured: scikit-learn's breast cancer at two sites of our own making."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from ._types import Task
from .cells import Sizes, assigned_nuisances, task_of_rows

#: The second site measures this share of the columns otherwise; shifts and scales are drawn once and for all.
SHIFTED_SHARE = 0.5
SHIFT = 3.0
SCALE = 0.3
SITE_SEED = 0
SITES = ("first site", "second site")
SIZES = Sizes(rows=140, auxiliary_rows=64, validation_rows=36, test_rows=120)


def build(*, seed: int, bias: float = 0.95, sizes: Sizes = SIZES) -> Task:
    """569 tumours, malignant or benign, by 30 standardised columns; most malignant ones were measured at the first site.

    Every tumour is measured at one site alone, drawn by seed.

    Args:
        seed: sites and splits.
        bias: share in [0, 1].
        sizes: rows of the splits.

    Source: Wolberg et al. 1995, UCI Breast Cancer Wisconsin (Diagnostic), CC BY 4.0, as scikit-learn bundles it.
    """
    found = load_breast_cancer()
    labels = torch.tensor(found.target)
    columns = torch.tensor(found.data, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    sites = assigned_nuisances(labels, len(SITES), bias=bias, sizes=sizes, generator=generator)
    rows = measured_at(sites, (columns - columns.mean(0)) / columns.std(0))
    names = [str(name) for name in found.target_names]
    return task_of_rows(
        "table", rows.__getitem__, labels, sites, names=names, group_names=SITES, bias=bias, sizes=sizes, seed=seed
    )


def measured_at(sites: Tensor, columns: Tensor) -> Tensor:
    """Standardised columns as each row's site measures them: the first as they are, the second with a shift and a scale."""
    generator = torch.Generator().manual_seed(SITE_SEED)
    width = columns.shape[1]
    touched = torch.rand(width, generator=generator) < SHIFTED_SHARE
    shift = SHIFT * torch.randn(width, generator=generator) * touched
    scale = torch.exp(SCALE * torch.randn(width, generator=generator) * touched)
    return torch.where(sites[:, None] == 1, columns * scale + shift, columns)
