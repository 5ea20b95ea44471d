"""The parameter space of input embeddings: vectors in the place of words, within a ball or free.

Source: the continuous attack of Schwinn et al. (arXiv 2402.09063) and the circuit breakers' paper
(App. A.3): sign steps from the embeddings of ordinary tokens, with or without a bound.

Shapes: B rows, A active ones, N optimised positions, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.attacks.core import Moment


class EmbeddingSpace:
    """N free vectors a row.

    Args:
        start: the vectors to begin with, such as the embeddings of "x x x x", in float32.
        radius: largest L2 distance of a vector from its start; None: no bound.
    """

    def __init__(self, start: Float[Tensor, "B N D"], *, radius: float | None = None) -> None:
        if radius is not None and radius < 0:
            raise ValueError(f"radius must not be negative, got {radius}")
        self._start = start.detach().float()
        self.radius = radius

    def neutral(self) -> Float[Tensor, "B N D"]:
        """The vectors to begin with."""
        return self._start.clone()

    def first(self) -> Float[Tensor, "B N D"]:
        """The same."""
        return self.neutral()

    def random_point(self, row: int, *, generator: torch.Generator) -> Float[Tensor, "N D"]:
        """Start plus Gaussian noise as long as the radius (without one: as the start is)."""
        start = self._start[row]
        noise = torch.randn(start.shape, generator=generator).to(start.device)
        lengths = start.norm(dim=-1, keepdim=True) if self.radius is None else self.radius
        return start + lengths * noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def project(
        self, parameters: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, "A N D"]:
        """Every vector back into the L2 ball around its start."""
        if self.radius is None:
            return parameters
        change = parameters - self._start[rows]
        length = change.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return self._start[rows] + change * (self.radius / length).clamp_max(1.0)

    def realize(
        self, parameters: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Float[Tensor, "A N D"]:
        """The vectors themselves."""
        return parameters

    def store(
        self, parameters: Float[Tensor, "A N D"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, "A N D"]:
        """A copy."""
        return parameters.detach().clone()
