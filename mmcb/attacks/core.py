"""What the parts of an optimised attack say to each other.

An attack is five things: a *parameter space* with its threat model (what may be changed, and how
far), an *objective* (what the change is to achieve), a *step rule* (`optimiser.py`), a *selection*
(which iterate is kept), and a budget. `pgd.py` is the one loop that runs them, for pictures,
patches and embeddings alike.

Shapes: B rows (independent attacks), A <= B still active ones, P the shape of one row's parameters,
C the shape of what the model is shown for one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.store import record_id


@dataclass(frozen=True, slots=True)
class Moment:
    """When a loss is asked for, and the source of whatever is drawn at random for it.

    Args:
        restart: the restart under way, from 0; -1 for the fixed draws of a selection.
        step: gradient steps taken in this restart; for a selection the number of the draw.
        steps: gradient steps of a restart.
        seed: the attack's seed.
        row_ids: a name for each of the B rows.
    """

    restart: int
    step: int
    steps: int
    seed: int
    row_ids: Sequence[str]

    @property
    def progress(self) -> float:
        """How much of the restart is done, in [0, 1]; a selection is made as at the end."""
        return 1.0 if self.restart < 0 else min(1.0, self.step / max(1, self.steps))

    def generator(self, row: int, purpose: str) -> torch.Generator:
        """A generator for one row's draw: the same in any batch, on any device, after a resume."""
        parts = (self.seed, self.row_ids[row], self.restart, self.step, purpose)
        return torch.Generator().manual_seed(int(record_id(*parts), 16) % 2**63)


class Losses(NamedTuple):
    """What an objective says of the active rows; A numbers each."""

    descend: Float[Tensor, " A"]
    """What the gradient is taken of."""
    score: Float[Tensor, " A"]
    """What iterates are compared by, stopped by, and shown by in the curve."""


class Objective(Protocol):
    """How far each row is from what the attacker wants."""

    @property
    def passes(self) -> int:
        """Forward-backward passes of one example that an evaluation of one row costs."""
        ...

    def __call__(
        self, candidates: Float[Tensor, "A ..."], rows: Int64[Tensor, " A"], moment: Moment, /
    ) -> Losses:
        """Losses of `candidates`, differentiable in them; candidate i belongs to row `rows[i]`.

        Rows must not influence each other.
        """
        ...


class ParameterSpace(Protocol):
    """What the attacker may set, per row, and the threat model that bounds it."""

    def neutral(self) -> Float[Tensor, "B ..."]:
        """Parameters of the input as it was found."""
        ...

    def first(self) -> Float[Tensor, "B ..."]:
        """Where the first restart begins, unless it is to begin at a random point."""
        ...

    def random_point(self, row: int, *, generator: torch.Generator) -> Tensor:
        """A point of the threat model drawn for one row."""
        ...

    def project(
        self, parameters: Float[Tensor, "A ..."], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, "A ..."]:
        """The nearest parameters that the threat model allows."""
        ...

    def realize(
        self, parameters: Float[Tensor, "A ..."], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Float[Tensor, "A ..."]:
        """What the objective sees: as it would be stored, differentiable in the parameters."""
        ...

    def store(self, parameters: Float[Tensor, "A ..."], rows: Int64[Tensor, " A"]) -> Tensor:
        """The parameters in the form in which they are kept (8 bit for pixels)."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Keep the iterate with the least mean score over fixed draws, where single scores are noisy.

    Args:
        every: judge an iterate every so many steps, and the last of a restart.
        draws: losses to average: the same draws of transforms, places or behaviors every time.
        objective: what to judge by, such as behaviors that are not trained on; None: the
            attack's own.
    """

    every: int
    draws: int = 1
    objective: Objective | None = None

    def due(self, moment: Moment) -> bool:
        """Whether the iterate of this moment is to be judged."""
        return moment.step % self.every == 0 or moment.step == moment.steps
