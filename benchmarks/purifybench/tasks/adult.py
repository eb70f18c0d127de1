"""The census rows of UCI Adult: income over 50,000 dollars as the class, and sex, race, age or sex and age as the nuisance."""

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ._types import Task
from .cells import Sizes, task_of_rows

Nuisance = Literal["sex", "race", "age", "sex+age"]
CLASS_COLUMN = "Salary"
#: Columns that a careful user leaves out beside the nuisance's own: weights of the census, and what another column says.
LEFT_OUT = ("sex", "fnlwgt", "education", "native-country")
LONG_TAILED = ("capital-gain", "capital-loss")
#: Nuisances by their place; the first is paired with low income, the second with high.
AGES = ("youngest", "oldest", "second", "third")
SEX_AND_AGE = ("Female, younger", "Male, older", "Female, older", "Male, younger")
SIZES = Sizes(rows=2000, auxiliary_rows=1000, validation_rows=500, test_rows=1200)


def build(*, seed: int, adult: Path, adult_nuisance: Nuisance = "sex", bias: float = 0.95, sizes: Sizes = SIZES) -> Task:
    """Most training rows of low income have the first nuisance, most of high income the second.

    Inputs are numbers and indicators of the categories, all standardised.

    Args:
        seed: which rows.
        adult: a parquet file with the columns of UCI Adult.
        adult_nuisance: sex; race as white or other; age in four ranges, of which low income is paired with the youngest, high
            income with the oldest; or sex and age, younger or older. For purifying age alone is a number of years, and sex and
            age are two labels.
        bias: share in [0, 1].
        sizes: rows of the splits; smaller where a cell has too few.

    Raises:
        ValueError: if a column is missing, or there are too few rows.

    Source: Becker and Kohavi 1996, UCI Adult, CC BY 4.0.
    """
    inputs, labels, groups, names, group_names, columns = _read(adult, adult_nuisance)
    named = {"names": names, "group_names": group_names, "columns": columns}
    return task_of_rows("adult", inputs.__getitem__, labels, groups, **named, bias=bias, sizes=sizes, seed=seed)


Columns = Mapping[str, Sequence[Hashable]]


@lru_cache(maxsize=1)
def _read(path: Path, nuisance: Nuisance) -> tuple[Tensor, Tensor, Tensor, list[str], list[str], Columns | None]:
    """Inputs, classes and nuisances by number, the names of both, and the nuisances as purifying gets them."""
    table = pd.read_parquet(path)
    of_nuisance = nuisance.split("+")
    for column in (CLASS_COLUMN, *of_nuisance, *LONG_TAILED):
        if column not in table:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(table.columns)}: it is no file of UCI Adult")
    labels, names = _coded(table[CLASS_COLUMN].str.strip())
    groups, group_names = _coded(_nuisance(table, nuisance))
    columns: Columns | None = None
    if nuisance == "age":
        columns = {"age": table["age"].tolist()}
    elif nuisance == "sex+age":
        columns = {"sex": table["sex"].tolist(), "age": _halves(table).tolist()}
    inputs = table.drop(columns=[CLASS_COLUMN, *of_nuisance, *LEFT_OUT], errors="ignore")
    inputs = inputs.assign(**{column: np.log1p(inputs[column]) for column in LONG_TAILED})
    numbers = pd.get_dummies(inputs).astype("float32")
    standardised = (numbers - numbers.mean()) / numbers.std().clip(lower=1e-6)
    return torch.tensor(standardised.to_numpy()), labels, groups, names, group_names, columns


def _nuisance(table: pd.DataFrame, name: Nuisance) -> pd.Series:
    if name == "race":
        return table[name].str.strip().eq("White").map({True: "white", False: "other"})
    if name == "sex":
        return table[name].str.strip()
    if name == "age":
        in_order = pd.qcut(table["age"], len(AGES), labels=["youngest", "second", "third", "oldest"])
        return pd.Series(pd.Categorical(in_order, categories=AGES))
    return pd.Series(pd.Categorical(table["sex"].str.strip() + ", " + _halves(table), categories=SEX_AND_AGE))


def _halves(table: pd.DataFrame) -> pd.Series:
    return pd.qcut(table["age"], 2, labels=["younger", "older"]).astype(str)


def _coded(column: pd.Series) -> tuple[Tensor, list[str]]:
    codes, names = pd.factorize(column, sort=True)
    return torch.tensor(codes, dtype=torch.int64), [str(name) for name in names]
