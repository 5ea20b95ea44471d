"""Greedy coordinate gradient: swap the token that the gradient says helps, if it does.

Source: Zou et al. (arXiv 2307.15043), algorithm 1, with nanoGCG's filter: a candidate must come
back as the same tokens when the text is read again. The best tokens so far are kept.

Shapes: N tokens, W words, D width, C candidates, k tokens with the steepest gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mmcb.attacks.results import StepReport
from mmcb.store import record_id


class TokenLoss(Protocol):
    """What the search makes small."""

    def gradient(self, ids: Int64[Tensor, " N"], /) -> tuple[float, Float[Tensor, "N W"]]:
        """The loss of the tokens, and its slope in every word's share of every position."""
        ...

    def losses(self, candidates: Int64[Tensor, "C N"], /) -> Float[Tensor, " C"]:
        """The loss of each candidate."""
        ...


@dataclass(frozen=True, slots=True)
class GCGSettings:
    """The budget and the rule of one search.

    Args:
        steps: steps at most.
        search_width: C, candidates a step.
        top_k: k.
        num_replace: tokens that a candidate changes.
        stop_loss: at or below this the search ends.
        seed: of the candidates.
    """

    steps: int
    search_width: int = 512
    top_k: int = 256
    num_replace: int = 1
    stop_loss: float = 0.0
    seed: int = 0


class GreedyCoordinateGradient:
    """One search, which can be stepped, saved and continued.

    Args:
        settings: budget and rule.
        start: the tokens to begin with.
        loss: what is made small.
        allowed: words that may be used.
        survives: which candidates come back as the same tokens when read as text.
        name: seeds the search, with the settings' seed.
    """

    def __init__(
        self,
        settings: GCGSettings,
        *,
        start: Int64[Tensor, " N"],
        loss: TokenLoss,
        allowed: Bool[Tensor, " W"],
        survives: Callable[[Sequence[Sequence[int]]], list[bool]],
        name: str,
    ) -> None:
        self.settings = settings
        self._loss = loss
        self._allowed = allowed
        self._survives = survives
        self._name = name
        self.ids = start.clone()
        """The tokens under way."""
        self.best = start.clone()
        """The best tokens so far."""
        self.curve: list[float] = []
        """The loss before every step, and after the last."""
        self.best_loss = math.inf
        self._thirds = 0

    @property
    def done(self) -> bool:
        """Whether the budget is spent or the loss is low enough."""
        spent = len(self.curve) > self.settings.steps
        return spent or self.best_loss <= self.settings.stop_loss

    @property
    def passes(self) -> int:
        """Forward-backward passes spent, and forward passes at a third of one."""
        return self._thirds // 3

    @property
    def evaluated(self) -> int:
        """Strings of tokens, one a step, whose loss is known."""
        return len(self.curve)

    @property
    def advanced(self) -> int:
        """Evaluations spent or, where the loss is low enough, saved."""
        return self.settings.steps + 1 if self.done else self.evaluated

    def step(self) -> StepReport:
        """Evaluate the tokens, and move to the best candidate; tells the loss before the move."""
        number, before = self.evaluated, self.advanced
        if number == self.settings.steps:
            loss = float(self._loss.losses(self.ids[None])[0])
            self._note(loss)
        else:
            loss, slope = self._loss.gradient(self.ids)
            self._note(loss)
            self._thirds += 3
            if not self.done:
                self._move(slope, number)
        return StepReport(
            step=number,
            steps=self.settings.steps,
            mean_loss=loss,
            advanced=self.advanced - before,
            finished=int(self.done),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs."""
        return {
            "ids": self.ids.cpu(),
            "best": self.best.cpu(),
            "curve": torch.tensor(self.curve, dtype=torch.float64),
            "thirds": torch.tensor(self._thirds),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self.ids = state["ids"].to(self.ids.device)
        self.best = state["best"].to(self.best.device)
        self.curve = state["curve"].tolist()
        self.best_loss = min(self.curve, default=math.inf)
        self._thirds = int(state["thirds"])

    def _note(self, loss: float) -> None:
        self.curve.append(loss)
        if loss < self.best_loss:
            self.best, self.best_loss = self.ids.clone(), loss

    def _move(self, slope: Float[Tensor, "N W"], number: int) -> None:
        """Go to the best candidate, be it worse than the tokens under way."""
        candidates = self._candidates(slope, number)
        if len(candidates):
            losses = self._loss.losses(candidates)
            self._thirds += len(candidates)
            best = int(losses.nan_to_num(math.inf).argmin())
            if losses[best].isfinite():
                self.ids = candidates[best].clone()

    def _candidates(self, slope: Float[Tensor, "N W"], number: int) -> Int64[Tensor, "C N"]:
        """Copies of the tokens with some swapped for steep ones, without those that do not last."""
        settings, length = self.settings, len(self.ids)
        slope = slope.float().masked_fill(~self._allowed, math.inf)
        top_k = min(settings.top_k, int(self._allowed.sum()))
        steepest_Nk = slope.topk(top_k, dim=1, largest=False).indices.cpu()
        seed = int(record_id(settings.seed, self._name, number), 16) % 2**63
        generator = torch.Generator().manual_seed(seed)
        count, swaps = settings.search_width, min(settings.num_replace, length)
        order = torch.rand(count, length, generator=generator).argsort(dim=1)
        if swaps == 1:
            # As in the paper, every position gets its share of the candidates.
            order = (torch.arange(count) * length // count)[:, None]
        chosen = torch.randint(top_k, (count, swaps), generator=generator)
        places = order[:, :swaps]
        candidates = self.ids.cpu().repeat(count, 1)
        candidates.scatter_(1, places, steepest_Nk[places, chosen])
        candidates = torch.unique(candidates, dim=0)
        lasting = self._survives(candidates.tolist())
        return candidates[torch.tensor(lasting, dtype=torch.bool)].to(self.ids.device)
