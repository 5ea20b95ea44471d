"""One search a behavior and model, resumable in the middle; what is saved is measured as text.

In a run's folder: `attempts.jsonl`, an Attempt per behavior and model, the tokens as part of its
prompt; `curves.jsonl`, a LossCurve of each.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcb.attacks.bench import ModelBench
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.gcg.loss import SlotLoss, allowed_tokens
from mmcb.attacks.gcg.search import GCGSettings, GreedyCoordinateGradient
from mmcb.attacks.outputs import LossCurve, load_state, save_state, state_path
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.attacks.targets import Label
from mmcb.attacks.textbench import TextSubject
from mmcb.errors import MmcbError
from mmcb.log import ProgressBar, progress
from mmcb.models.slots import SlotText
from mmcb.records import Attempt, Message, Scalar
from mmcb.store import RecordWriter, existing_ids, relative_image

ATTACK = "gcg"
_SETTINGS = (
    *("start_text", "steps", "search_width", "top_k", "num_replace", "ascii_only"),
    *("stop_loss", "seed"),
)


@dataclass
class GCGAttacker:
    """One run's work: tokens for every behavior and model.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: ModelBench[GCGConfig]
    labels: Sequence[Label]
    settings: dict[str, Scalar] = field(init=False)
    done: set[str] = field(init=False)

    def __post_init__(self) -> None:
        config = self.bench.config
        self.settings = {name: getattr(config, name) for name in _SETTINGS}
        self.done = existing_ids(self.bench.path / "attempts.jsonl")
        self._allowed = allowed_tokens(self.bench.loaded, ascii_only=config.ascii_only)

    def attack(self, subjects: Sequence[TextSubject]) -> None:
        """Attack every subject that has no attempt yet."""
        path, each = self.bench.path, self.bench.config.steps + 1
        pairs = [(one, label) for one in subjects for label in self.labels]
        todo = [pair for pair in pairs if self._id(*pair) not in self.done]
        with (
            RecordWriter(path / "attempts.jsonl", Attempt) as attempts,
            RecordWriter(path / "curves.jsonl", LossCurve) as curves,
            progress(
                len(pairs) * each, "searching tokens", initial=(len(pairs) - len(todo)) * each
            ) as bar,
        ):
            for subject, label in todo:
                search = self._search(subject, label, bar)
                attempt = self._attempt(subject, label, search)
                if attempt.id not in existing_ids(curves.path):
                    curves.write([self._curve(attempt, search)])
                attempts.write([attempt])
                state_path(path, [attempt.id]).unlink(missing_ok=True)
        shutil.rmtree(path / "state", ignore_errors=True)

    def _id(self, subject: TextSubject, label: Label) -> str:
        return subject.attempt_id(ATTACK, self.bench.weights[label], self.settings)

    def _search(
        self, subject: TextSubject, label: Label, bar: ProgressBar
    ) -> GreedyCoordinateGradient:
        """Run one search to its end, from its saved state if there is one."""
        config, loaded = self.bench.config, self.bench.loaded
        id_ = self._id(subject, label)
        slot = SlotText.of(
            loaded,
            (Message(role="user", content=subject.behavior.prompt),),
            has_image=subject.image is not None,
            prefill=subject.target,
        )
        start = self._start(slot)
        targets = SlottedTargets(loaded, [subject.row], num_free=len(start))
        search = GreedyCoordinateGradient(
            GCGSettings(
                steps=config.steps,
                search_width=config.search_width,
                top_k=config.top_k,
                num_replace=config.num_replace,
                stop_loss=config.stop_loss,
                seed=config.seed,
            ),
            start=start,
            loss=SlotLoss(targets, batch_size=config.batch_size),
            allowed=self._allowed,
            survives=slot.survives,
            name=id_,
        )
        state = state_path(self.bench.path, [id_])
        saved = load_state(state)
        if saved is not None:
            search.load_state_dict(saved)
            bar.advance(len(search.curve))
        with self.bench.model(label):
            while not search.done:
                loss = search.step()
                bar.advance(1, model=label, loss=loss, best=search.best_loss)
                if len(search.curve) % config.save_every == 0:
                    save_state(state, search.state_dict())
        bar.advance(config.steps + 1 - len(search.curve))
        return search

    def _start(self, slot: SlotText) -> Tensor:
        """The tokens to begin with.

        Raises:
            MmcbError: their text does not come back as the same tokens.
        """
        loaded, text = self.bench.loaded, self.bench.config.start_text
        ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
        if not ids or not slot.survives([ids])[0]:
            raise MmcbError(
                f"--start-text {text!r} behind a request is read as other tokens by {loaded.name}",
                hint="begin it with a space, and use words that the tokenizer keeps whole",
            )
        return torch.tensor(ids, device=loaded.device)

    def _attempt(
        self, subject: TextSubject, label: Label, search: GreedyCoordinateGradient
    ) -> Attempt:
        """The record, with the loss of the prompt read again as text, by a path of its own."""
        behavior, lines = subject.behavior, self.bench.path / "attempts.jsonl"
        words = str(
            self.bench.loaded.tokenizer.decode(
                search.best.tolist(), clean_up_tokenization_spaces=False
            )
        )
        prompt = behavior.prompt + words
        loss_text, reached = self._measure(subject, prompt, label)
        measures = {
            "loss_start": search.curve[0],
            "loss_float": search.best_loss,
            "loss_text": loss_text,
            "target_reached": reached,
            "passes": float(search.passes),
        }
        return Attempt(
            id=self._id(subject, label),
            behavior_id=behavior.id,
            attack=ATTACK,
            model=label,
            split=behavior.split,
            category=behavior.category,
            prompt=prompt,
            image=None if subject.image is None else relative_image(lines, subject.image),
            measures={name: value for name, value in measures.items() if math.isfinite(value)},
            settings={**self.settings, **self.bench.all_settings(label)},
        )

    @torch.no_grad()
    def _measure(self, subject: TextSubject, prompt: str, label: Label) -> tuple[float, float]:
        """Loss of the target behind the prompt as anyone would send it; 1 if it is reached."""
        row = SlotRow(prompt, subject.target, subject.image)
        whole = SlottedTargets(self.bench.loaded, [row], num_free=0)
        width = self.bench.loaded.base.get_input_embeddings().weight.shape[1]
        nothing = torch.zeros(1, 0, width, device=self.bench.loaded.device)
        rows = torch.zeros(1, dtype=torch.int64, device=nothing.device)
        with self.bench.model(label):
            forced = whole.run(nothing, rows)
        return float(forced.cross_entropy()[0]), float(forced.reached()[0])

    def _curve(self, attempt: Attempt, search: GreedyCoordinateGradient) -> LossCurve:
        return LossCurve(
            id=attempt.id,
            behavior_id=attempt.behavior_id,
            model=attempt.model,
            steps_per_restart=self.bench.config.steps,
            losses=tuple(round(x, 6) if math.isfinite(x) else None for x in search.curve),
        )
