"""Turns the numbers of a column into a verdict ("use", "doubtful", "do not use") with its reason."""

from dataclasses import dataclass
from typing import Literal

from wdpurify._balance import CONFOUNDED

from ._association import Association
from ._columns import Column
from ._leakage import Leakage
from ._transfer import Transfer

Verdict = Literal["use", "use, with balance", "doubtful", "do not use"]
VERDICTS: tuple[Verdict, ...] = ("use", "use, with balance", "doubtful", "do not use")
#: What they say, for a reader of the report.
MEANINGS: dict[Verdict, str] = {
    "use": (
        "Learning the label does not help the task: the upper end of the interval is below the margin, {margin} points. And "
        "the label is in the images."
    ),
    "use, with balance": (
        "The same, on the task's own rows, where the label goes with the task label: draw the rows evenly over both, by "
        "GroupSampler(..., balance=classes)."
    ),
    "doubtful": (
        "A gain of more than {margin} points is not ruled out: more repeats, steps or evaluation rows narrow the interval. Or "
        "the images do not show the label, so that there is nothing to forget. Or the label goes with the task label and no "
        "separate evaluation data say why."
    ),
    "do not use": (
        "The label helps the task: learning it gains more than {margin} points, or by itself it tells the task class on the "
        "evaluation data. Forgetting it would hurt. Or the column cannot be grouped by."
    ),
}
#: A label whose Cramér's V with the task label is above this goes with it: without separate evaluation data nobody can tell.
TIED = CONFOUNDED


@dataclass(frozen=True)
class ColumnAudit:
    """One row of the audit.

    Attributes:
        column: what the column holds.
        verdict: whether to purify of it.
        reason: one sentence.
        transfer: effect of learning the label on the task; None where the column could not be audited, as the next two.
        leakage: of the label in the features as they are.
        association: of the label with the task label in the task rows.
    """

    column: Column
    verdict: Verdict
    reason: str
    transfer: Transfer | None
    leakage: Leakage | None
    association: Association | None


def _carried(transfer: Transfer) -> str:
    low, high = (100 * (bound or 0.0) for bound in (transfer.carried_low, transfer.carried_high))
    return f"{100 * (transfer.carried or 0.0):.1f} points ({low:.1f} to {high:.1f})"


def judge(
    transfer: Transfer, leakage: Leakage, association: Association, margin: float, *, own_rows: bool = False
) -> tuple[Verdict, str]:
    """Verdict and reason.

    Args:
        transfer, leakage, association: of the column.
        margin: largest gain of balanced accuracy, in [0, 1], that still counts as none.
        own_rows: whether the label is to be purified of on the task's own rows, where it may go with the task label.
    """
    effect = f"{100 * transfer.effect:+.1f} points ({100 * transfer.low:+.1f} to {100 * transfer.high:+.1f})"
    goes_along = association.cramers_v > TIED
    tied = goes_along and not transfer.separate
    goes = f"it goes with the task label in the task rows (Cramér's V {association.cramers_v:.2f})"
    if not transfer.label_learned and leakage.p_value >= 0.05:
        return "doubtful", "the images do not show it: neither a probe nor training decodes it, so there is nothing to forget"
    if transfer.carried is not None and transfer.carried_low > 0 and transfer.carried > margin:  # type: ignore[operator]
        return (
            "do not use",
            f"relevant: the label by itself tells the task class elsewhere too, {_carried(transfer)} above chance",
        )
    if transfer.low > 0 and transfer.effect > margin:
        also = f"; {goes}, so a bias may be part of it" if tied else ""
        return "do not use", f"relevant: learning it helps the task, {effect}{also}"
    if tied:
        known = "; if you know that it is irrelevant, purify with `balance`" if own_rows else ""
        return "doubtful", f"{goes}: give `evaluation` data from elsewhere to tell a bias from a meaning; here {effect}{known}"
    if transfer.high > margin:
        return "doubtful", f"a gain of more than {100 * margin:.0f} points is not ruled out, {effect}: more repeats or rows"
    if own_rows and goes_along:
        return "use, with balance", f"irrelevant, {effect}, but {goes}: draw evenly, `GroupSampler(..., balance=classes)`"
    return "use", f"irrelevant: learning it does not help the task, {effect}"
