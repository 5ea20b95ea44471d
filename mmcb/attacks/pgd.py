"""The loop of every gradient attack: a batch of rows, one independent attack each.

Rows never influence each other: losses are summed, noise is seeded per row, and rows that reached
the stopping loss leave the batch. So a result does not depend on its batch, and a killed attack
goes on bit for bit.

Protocol: HarmBench's MultiModalPGD (sign steps, clean start, least-loss iterate kept, stop below a
loss), with restarts, other step rules and a selection as options.

Shapes: B rows, A <= B still active ones, P the shape of one row's parameters, N evaluations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mmcb.attacks.core import Losses, Moment, Objective, ParameterSpace, Selection
from mmcb.attacks.optimiser import StepRule
from mmcb.attacks.results import PGDResult, StepReport
from mmcb.store import record_id


@dataclass(frozen=True, slots=True)
class PGDSettings:
    """The budget and the rule of one attack.

    Args:
        rule: how a gradient becomes a step.
        steps: gradient steps per restart.
        restarts: number of starts; all but the first are random points of the threat model.
        random_start: whether the first start is random too.
        stop_loss: a row whose score is at or below this is finished.
        seed: seed of everything that is drawn.
    """

    rule: StepRule
    steps: int
    restarts: int = 1
    random_start: bool = False
    stop_loss: float = 0.0
    seed: int = 0

    @property
    def evaluations(self) -> int:
        """Losses in a full curve: per restart the start and every step's result."""
        return self.restarts * (self.steps + 1)


class ProjectedGradientDescent:
    """The attack as an object that can be stepped, saved and continued bit for bit.

    Args:
        settings: budget and rule.
        space: what is optimised, and the threat model.
        objective: what it is optimised for.
        row_ids: a name per row, mixed with `settings.seed`, so that a row's noise does not depend
            on the batch it happens to be in.
        selection: how the kept iterate is chosen; None: by its own score.
    """

    def __init__(
        self,
        settings: PGDSettings,
        *,
        space: ParameterSpace,
        objective: Objective,
        row_ids: Sequence[str],
        selection: Selection | None = None,
    ) -> None:
        neutral = space.neutral()
        if len(row_ids) != len(neutral):
            raise ValueError(f"{len(neutral)} rows, {len(row_ids)} row ids")
        rows, device = len(neutral), neutral.device
        self.settings = settings
        self._space = space
        self._objective = objective
        self._selection = selection
        self._row_ids = tuple(row_ids)
        self.evaluated = 0
        """Iterates evaluated so far, over all restarts."""
        self._device = device
        self._parameters = neutral
        self._memory = {name: torch.zeros_like(neutral) for name in settings.rule.memory}
        self._best = space.store(neutral, torch.arange(rows, device=device))
        self._best_loss = torch.full((rows,), math.inf, device=device)
        self._start_loss = torch.full((rows,), math.nan, device=device)
        # The curve stays on the device: reading it at every step would wait for the GPU.
        self._curve = torch.full((rows, settings.evaluations), math.nan, device=device)
        self._norms = torch.full((rows, settings.evaluations), math.nan, device=device)
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
        moment = self._moment(restart, step)
        rows = (self._stopped < 0).nonzero().squeeze(1)
        if step == 0:
            self._begin_restart(restart, rows)
        moves = step < self.settings.steps
        parameters = self._parameters[rows].requires_grad_(moves)
        with torch.set_grad_enabled(moves):
            losses = self._losses(parameters, rows, moment)
        gradient = torch.autograd.grad(losses.descend.sum(), parameters)[0] if moves else None
        scores = losses.score.detach().float()
        self._keep(rows, parameters.detach(), scores, moment)
        self.evaluated += 1
        if gradient is not None:
            self._move(rows, parameters.detach(), gradient, step)
        return StepReport(
            step=step,
            steps=self.settings.steps,
            mean_loss=float(scores.mean()),
            advanced=self.advanced - before,
            finished=len(self._stopped) if self.done else int((self._stopped >= 0).sum()),
        )

    def results(self) -> list[PGDResult]:
        """One result per row, at any moment after the first step."""
        curves, norms = self._curve.cpu().tolist(), self._norms.cpu().tolist()
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
                    gradient_norms=tuple(norms[row][:length]),
                    passes=int(self._passes[row]),
                    stopped_step=stopped,
                )
            )
        return results

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a continuation needs, as contiguous CPU tensors (for safetensors)."""
        state = {
            "evaluated": torch.tensor(self.evaluated),
            "parameters": self._parameters,
            "best": self._best,
            "best_loss": self._best_loss,
            "start_loss": self._start_loss,
            "curve": self._curve,
            "norms": self._norms,
            "passes": self._passes,
            "stopped": self._stopped,
        }
        state |= {f"memory.{name}": tensor for name, tensor in self._memory.items()}
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
            tensor = state[name].to(self._device).clone()
            if name.startswith("memory."):
                self._memory[name.removeprefix("memory.")] = tensor
            else:
                setattr(self, f"_{name}", tensor)

    def _moment(self, restart: int, step: int) -> Moment:
        settings = self.settings
        return Moment(restart, step, settings.steps, settings.seed, self._row_ids)

    def _losses(
        self, parameters: Float[Tensor, "A ..."], rows: Int64[Tensor, " A"], moment: Moment
    ) -> Losses:
        return self._objective(self._space.realize(parameters, rows, moment), rows, moment)

    def _begin_restart(self, restart: int, rows: Int64[Tensor, " A"]) -> None:
        """Put the active rows at their start and forget the gradients of the last restart."""
        for memory in self._memory.values():
            memory.zero_()
        if restart == 0:
            self._note_start(rows)
            if not self.settings.random_start:
                self._parameters = self._space.first()
                return
        for row in rows.tolist():
            generator = torch.Generator().manual_seed(self._noise_seed(row, restart))
            self._parameters[row] = self._space.random_point(row, generator=generator)

    def _note_start(self, rows: Int64[Tensor, " A"]) -> None:
        """The clean loss; where the first iterate is clean, its own evaluation is that."""
        neutral = self._space.neutral()
        if self.settings.random_start or not torch.equal(neutral, self._space.first()):
            with torch.no_grad():
                losses = self._losses(neutral, rows, self._moment(0, 0))
            self._start_loss = losses.score.float()

    def _noise_seed(self, row: int, restart: int) -> int:
        return int(record_id(self.settings.seed, self._row_ids[row], restart), 16) % 2**63

    def _keep(
        self,
        rows: Int64[Tensor, " A"],
        parameters: Float[Tensor, "A ..."],
        scores: Float[Tensor, " A"],
        moment: Moment,
    ) -> None:
        """Note the losses, keep better iterates, mark rows that reached the stopping loss."""
        self._curve[rows, self.evaluated] = scores
        if self.evaluated == 0:
            unknown = self._start_loss[rows].isnan()
            self._start_loss[rows] = torch.where(unknown, scores, self._start_loss[rows])
        scores = self._selected(parameters, rows, scores, moment)
        better = scores < self._best_loss[rows]
        chosen = rows[better]
        self._best[chosen] = self._space.store(parameters[better], chosen)
        self._best_loss[chosen] = scores[better]
        self._stopped[rows[scores <= self.settings.stop_loss]] = self.evaluated

    @torch.no_grad()
    def _selected(
        self,
        parameters: Float[Tensor, "A ..."],
        rows: Int64[Tensor, " A"],
        scores: Float[Tensor, " A"],
        moment: Moment,
    ) -> Float[Tensor, " A"]:
        """The scores to select by: infinite for iterates that the selection does not judge."""
        selection = self._selection
        if selection is None:
            return scores
        if not selection.due(moment):
            return torch.full_like(scores, math.inf)
        objective = selection.objective or self._objective
        total = torch.zeros_like(scores)
        for draw in range(selection.draws):
            fixed = self._moment(-1, draw)
            candidates = self._space.realize(parameters, rows, fixed)
            total += objective(candidates, rows, fixed).score.float()
        return total / selection.draws

    def _move(
        self,
        rows: Int64[Tensor, " A"],
        parameters: Float[Tensor, "A ..."],
        gradient: Float[Tensor, "A ..."],
        step: int,
    ) -> None:
        """One step down the gradient, back into the threat model."""
        settings = self.settings
        self._norms[rows, self.evaluated - 1] = gradient.float().flatten(1).norm(dim=1)
        self._passes[rows] += self._objective.passes
        memory = {name: tensor[rows] for name, tensor in self._memory.items()}
        move = settings.rule.move(gradient, memory, step=step, steps=settings.steps)
        for name, tensor in memory.items():
            self._memory[name][rows] = tensor
        self._parameters[rows] = self._space.project(parameters + move, rows)
