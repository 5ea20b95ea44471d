"""Projected gradient descent over a batch of 8-bit pictures, one independent attack per row.

Every iterate is rounded to the 8-bit grid *before* the forward pass and the gradient at the rounded
picture moves the unrounded one (straight-through), so the loss of an iterate is already the loss of
the file that would be saved. Rows never influence each other: losses are summed, noise is seeded
per row, and rows that reached the stopping loss leave the batch.

Protocol: HarmBench's MultiModalPGD (sign steps, clean start, least-loss iterate kept, stop below a
loss) with momentum (MI-FGSM, arXiv 1710.06081), restarts and a step-size schedule as options.

Shapes: B pictures, A <= B still active ones, H rows, W columns, N evaluations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from mmcb.attacks.threat import PixelBall, from_levels, to_grid, to_levels
from mmcb.store import record_id

StepSchedule = Literal["constant", "linear", "cosine"]


class BatchLoss(Protocol):
    """Differentiable loss of each picture, for the rows of the batch named by `rows`."""

    def __call__(
        self, images: Float[Tensor, "A 3 H W"], rows: Int64[Tensor, " A"]
    ) -> Float[Tensor, " A"]:
        """Loss of each of `images`; image i is row `rows[i]` of the batch."""
        ...


@dataclass(frozen=True, slots=True)
class PGDSettings:
    """The budget and the rule of one attack.

    Args:
        ball: the threat model.
        steps: gradient steps per restart; each is one forward-backward pass.
        step_size: length of a step, as a fraction of the pixel range.
        momentum: decay of the accumulated gradient, 0 for plain sign steps.
        schedule: step size over a restart; linear and cosine end at a tenth of `step_size`.
        restarts: number of starts; all but the first are random points of the ball.
        random_start: whether the first start is random too (else the clean picture).
        stop_loss: a row at or below this loss is finished.
        seed: seed of the random starts.
    """

    ball: PixelBall
    steps: int
    step_size: float
    momentum: float = 0.0
    schedule: StepSchedule = "constant"
    restarts: int = 1
    random_start: bool = False
    stop_loss: float = 0.0
    seed: int = 0

    def step_size_at(self, step: int) -> float:
        """Step size of gradient step `step`, counted from 0 within a restart."""
        done = step / max(1, self.steps - 1)
        if self.schedule == "linear":
            return self.step_size * (1.0 - 0.9 * done)
        if self.schedule == "cosine":
            return self.step_size * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))
        return self.step_size

    @property
    def evaluations(self) -> int:
        """Losses in a full curve: per restart the start and every step's result."""
        return self.restarts * (self.steps + 1)


@dataclass(frozen=True, slots=True)
class PGDResult:
    """What is known about one row.

    Args:
        best: the least-loss iterate, 8 bit.
        best_loss: its loss.
        start_loss: loss of the clean picture.
        curve: loss of every iterate in order; restart r begins at index r * (steps + 1).
        passes: forward-backward passes spent.
        stopped_step: index in `curve` at which the stopping loss was reached, -1 if it was not.
    """

    best: UInt8[Tensor, "3 H W"]
    best_loss: float
    start_loss: float
    curve: tuple[float, ...]
    passes: int
    stopped_step: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress of one step: where it stood, the active rows' mean loss, rows finished so far."""

    restart: int
    step: int
    mean_loss: float
    advanced: int
    """Evaluations that are now spent or saved by stopping; they sum to B * evaluations."""
    finished: int


class ProjectedGradientDescent:
    """The attack as an object that can be stepped, saved and continued bit for bit.

    Args:
        settings: budget and rule.
        loss: per-row differentiable loss of pictures in [0, 1].
        clean: the clean 8-bit pictures, on the device of the model.
        row_ids: a name per row, mixed with `settings.seed`, so that a row's noise does not depend
            on the batch it happens to be in.
    """

    def __init__(
        self,
        settings: PGDSettings,
        *,
        loss: BatchLoss,
        clean: UInt8[Tensor, "B 3 H W"],
        row_ids: Sequence[str],
    ) -> None:
        if len(row_ids) != len(clean):
            raise ValueError(f"{len(clean)} pictures, {len(row_ids)} row ids")
        rows, device = len(clean), clean.device
        self.settings = settings
        self._loss = loss
        self._clean = clean
        self._row_ids = tuple(row_ids)
        self.evaluated = 0
        """Iterates evaluated so far, over all restarts."""
        self._images = from_levels(clean)
        self._momentum = torch.zeros_like(self._images) if settings.momentum else None
        self._best = clean.clone()
        self._best_loss = torch.full((rows,), math.inf, device=device)
        self._start_loss = torch.full((rows,), math.nan, device=device)
        # The curve stays on the device: reading it at every step would wait for the GPU.
        self._curve = torch.full((rows, settings.evaluations), math.nan, device=device)
        self._passes = torch.zeros(rows, dtype=torch.int64, device=device)
        self._stopped = torch.full((rows,), -1, dtype=torch.int64, device=device)

    @property
    def done(self) -> bool:
        """Whether the budget is spent or every row has stopped."""
        return self.evaluated >= self.settings.evaluations or bool((self._stopped >= 0).all())

    @property
    def advanced(self) -> int:
        """Evaluations spent or saved by stopping so far, out of B * evaluations."""
        stopped = int((self._stopped >= 0).sum())
        running = len(self._stopped) - stopped
        return stopped * self.settings.evaluations + running * self.evaluated

    def step(self) -> StepReport:
        """Evaluate the current iterate of every active row and move it.

        Raises:
            RuntimeError: when the attack is done.
        """
        if self.done:
            raise RuntimeError("this attack is done")
        before = self.advanced
        restart, step = divmod(self.evaluated, self.settings.steps + 1)
        rows = (self._stopped < 0).nonzero().squeeze(1)
        if step == 0:
            self._begin_restart(restart, rows)
        moves = step < self.settings.steps
        images = to_grid(self._images[rows]).requires_grad_(moves)
        with torch.set_grad_enabled(moves):
            losses = self._loss(images, rows)
        gradient = torch.autograd.grad(losses.sum(), images)[0] if moves else None
        self._keep(rows, images.detach(), losses.detach().float())
        self.evaluated += 1
        if gradient is not None:
            self._passes[rows] += 1
            self._move(rows, gradient, step)
        return StepReport(
            restart=restart,
            step=step,
            mean_loss=float(losses.detach().mean()),
            advanced=self.advanced - before,
            finished=len(self._stopped) if self.done else int((self._stopped >= 0).sum()),
        )

    def results(self) -> list[PGDResult]:
        """One result per row, at any moment after the first step."""
        curves = self._curve.cpu().tolist()
        results = []
        for row in range(len(self._best)):
            stopped = int(self._stopped[row])
            length = stopped + 1 if stopped >= 0 else self.evaluated
            results.append(
                PGDResult(
                    best=self._best[row].cpu(),
                    best_loss=float(self._best_loss[row]),
                    start_loss=float(self._start_loss[row]),
                    curve=tuple(curves[row][:length]),
                    passes=int(self._passes[row]),
                    stopped_step=stopped,
                )
            )
        return results

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs, as contiguous CPU tensors (for safetensors)."""
        state = {
            "evaluated": torch.tensor(self.evaluated),
            "images": self._images,
            "best": self._best,
            "best_loss": self._best_loss,
            "start_loss": self._start_loss,
            "curve": self._curve,
            "passes": self._passes,
            "stopped": self._stopped,
        }
        if self._momentum is not None:
            state["momentum"] = self._momentum
        return {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: when the state belongs to another attack (other names or shapes).
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"state has {sorted(state)}, expected {sorted(own)}")
        wrong = [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise ValueError(f"state has other shapes for {wrong}")
        self.evaluated = int(state["evaluated"])
        for name in own.keys() - {"evaluated"}:
            setattr(self, f"_{name}", state[name].to(self._clean.device).clone())

    def _begin_restart(self, restart: int, rows: Int64[Tensor, " A"]) -> None:
        """Put the active rows at their start and forget the gradient of the last restart."""
        clean = from_levels(self._clean)
        if self._momentum is not None:
            self._momentum.zero_()
        if restart == 0 and not self.settings.random_start:
            self._images = clean
            return
        if restart == 0:
            with torch.no_grad():
                self._start_loss = self._loss(clean, rows).float()
        for row in rows.tolist():
            generator = torch.Generator().manual_seed(self._noise_seed(row, restart))
            self._images[row] = self.settings.ball.random_point(
                self._clean[row], generator=generator
            )

    def _noise_seed(self, row: int, restart: int) -> int:
        return int(record_id(self.settings.seed, self._row_ids[row], restart), 16) % 2**63

    def _keep(
        self,
        rows: Int64[Tensor, " A"],
        images: Float[Tensor, "A 3 H W"],
        losses: Float[Tensor, " A"],
    ) -> None:
        """Note the losses, keep better iterates, mark rows that reached the stopping loss."""
        self._curve[rows, self.evaluated] = losses
        if self.evaluated == 0 and not self.settings.random_start:
            self._start_loss[rows] = losses
        better = losses < self._best_loss[rows]
        chosen = rows[better]
        self._best[chosen] = to_levels(images[better])
        self._best_loss[chosen] = losses[better]
        self._stopped[rows[losses <= self.settings.stop_loss]] = self.evaluated

    def _move(
        self, rows: Int64[Tensor, " A"], gradient: Float[Tensor, "A 3 H W"], step: int
    ) -> None:
        """One sign step down the (accumulated) gradient, back into the ball."""
        # A row whose loss overflowed has no direction; it stays where it is.
        direction = torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0)
        if self._momentum is not None:
            scale = direction.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
            direction = self.settings.momentum * self._momentum[rows] + direction / scale
            self._momentum[rows] = direction
        moved = self._images[rows] - self.settings.step_size_at(step) * direction.sign()
        self._images[rows] = self.settings.ball.project(moved, self._clean[rows])
