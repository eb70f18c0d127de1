"""CapturedPass: the features of one pass, from which its term is made."""

from torch import Tensor

from wdpurify.pull import PassRecord, depends_on


class CapturedPass:
    """The training forwards since the last call of the criterion, and what is known of their backward pass.

    Attributes:
        features: what the tapped layer read, forward by forward; the last one is certainly there.
        numbers: of these forwards in the pass.
        record: of the backward pass.
        swapped: whether the layer ran with parameters that are not the model's own.
        probe: in a compiled graph the leaf that gets what is measured; None where a hook on the features reads it.
    """

    def __init__(
        self,
        features: list[Tensor],
        numbers: list[int],
        record: PassRecord,
        *,
        swapped: bool = False,
        probe: Tensor | None = None,
    ) -> None:
        self.features = features
        self.numbers = numbers
        self.record = record
        self.swapped = swapped
        self.probe = probe

    def part_of(self, loss: Tensor) -> "CapturedPass | None":
        """The forwards that a loss comes from: the graph of the others may be freed before it is back-propagated.

        In a compiled graph earlier forwards are not kept: a loss that does not come from the last one may come from them.
        """
        kept = [(number, each) for number, each in zip(self.numbers, self.features, strict=True) if depends_on(loss, each)]
        if not kept:
            return self if self.probe is not None and loss.requires_grad else None
        numbers = [number for number, _ in kept]
        return CapturedPass([each for _, each in kept], numbers, self.record, swapped=self.swapped, probe=self.probe)
