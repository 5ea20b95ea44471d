"""What the loop hands back: of a whole attack on one row, and of one step of the batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PGDResult:
    """What is known about one row.

    Args:
        best: the parameters of the least-loss iterate, as the space stores them.
        best_loss: its score.
        start_loss: score of the neutral parameters: the clean picture.
        curve: score of every iterate in order; restart r begins at index r * (steps + 1).
        gradient_norms: L2 norm of every step's gradient; not a number where no step was taken.
        passes: forward-backward passes spent.
        stopped_step: index in `curve` at which the stopping loss was reached, -1 if it was not.
    """

    best: Tensor
    best_loss: float
    start_loss: float
    curve: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    passes: int
    stopped_step: int

    @property
    def measures(self) -> dict[str, float]:
        """What an attempt records of it."""
        return {
            "loss_start": self.start_loss,
            "loss_float": self.best_loss,
            "passes": float(self.passes),
            "stopped_step": float(self.stopped_step),
        }


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress of one step: where it stood, the active rows' mean loss, rows finished so far."""

    step: int
    steps: int
    """Steps of a restart."""
    mean_loss: float
    advanced: int
    """Evaluations that are now spent or saved by stopping; they sum to B * evaluations."""
    finished: int
