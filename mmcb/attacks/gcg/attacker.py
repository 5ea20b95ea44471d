"""One search a behavior and model, resumable in the middle; what is saved is measured as text.

In a run's folder: `attempts.jsonl`, an Attempt per behavior and model, the tokens as part of its
prompt; `curves.jsonl`, a LossCurve of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcb.attacks.attempts import make_attempt
from mmcb.attacks.bench import ModelBench
from mmcb.attacks.gcg.config import GCGConfig
from mmcb.attacks.gcg.loss import SlotLoss, allowed_tokens
from mmcb.attacks.gcg.search import GCGSettings, GreedyCoordinateGradient
from mmcb.attacks.ledger import Ledger, make_curve, open_ledger
from mmcb.attacks.resumable import run_to_end, state_path
from mmcb.attacks.slotted import SlotRow, SlottedTargets
from mmcb.attacks.targets import Label
from mmcb.attacks.textrun import TextSubject
from mmcb.errors import MmcbError
from mmcb.models.slots import SlotText
from mmcb.records import Attempt, Message

SETTINGS = (
    *("start_text", "steps", "search_width", "top_k", "num_replace", "ascii_only"),
    *("stop_loss", "seed"),
)
"""What a search depends on."""


@dataclass
class GCGAttacker:
    """One run's work: tokens for every behavior and model.

    Args:
        bench: the model and the settings.
        labels: the models to attack, in order.
    """

    bench: ModelBench[GCGConfig]
    labels: Sequence[Label]

    def __post_init__(self) -> None:
        ascii_only = self.bench.config.ascii_only
        self._allowed = allowed_tokens(self.bench.loaded, ascii_only=ascii_only)

    def attack(self, subjects: Sequence[TextSubject]) -> None:
        """Attack every subject that has no attempt yet."""
        bench = self.bench
        attacks = [[self._id(one, label)] for one in subjects for label in self.labels]
        with open_ledger(
            bench.path, attacks, each=bench.config.steps + 1, title="searching tokens"
        ) as ledger:
            alone = ([one] for one in subjects)
            for label, (subject,) in ledger.todo(alone, self.labels, self._id):
                id_ = self._id(subject, label)
                state = state_path(bench.path, [id_])
                search = self._search(subject, label, ledger)
                attempt = self._attempt(subject, label, search)
                curve = make_curve(
                    id_,
                    behavior_id=attempt.behavior_id,
                    model=label,
                    losses=search.curve,
                    steps=bench.config.steps,
                )
                ledger.write([attempt], [curve], state=state)

    def _id(self, subject: TextSubject, label: Label) -> str:
        return self.bench.attempt_id(subject.behavior, label, picture=subject.image)

    def _search(
        self, subject: TextSubject, label: Label, ledger: Ledger
    ) -> GreedyCoordinateGradient:
        """Run one search to its end, from its saved state if there is one."""
        config, loaded = self.bench.config, self.bench.loaded
        id_ = self._id(subject, label)
        slot = SlotText.of(
            loaded,
            (Message(role="user", content=subject.behavior.prompt),),
            has_image=subject.image is not None,
            prefill=subject.behavior.target,
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
        with self.bench.model(label):
            run_to_end(
                search,
                state=state_path(self.bench.path, [id_]),
                save_every=config.save_every,
                label=label,
                bar=ledger.bar,
                count=ledger.count,
            )
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
        words = self.bench.loaded.tokenizer.decode(
            search.best.tolist(), clean_up_tokenization_spaces=False
        )
        prompt = f"{subject.behavior.prompt}{words}"
        loss_text, reached = self._measure(subject, prompt, label)
        return make_attempt(
            subject.behavior,
            self.bench.attack,
            id_=self._id(subject, label),
            path=self.bench.attempts,
            model=label,
            prompt=prompt,
            image=subject.image,
            measures={
                "loss_start": search.curve[0],
                "loss_float": search.best_loss,
                "loss_text": loss_text,
                "target_reached": reached,
                "passes": float(search.passes),
            },
            settings=self.bench.all_settings(label),
        )

    @torch.no_grad()
    def _measure(self, subject: TextSubject, prompt: str, label: Label) -> tuple[float, float]:
        """Loss of the target behind the prompt as anyone would send it; 1 if it is reached."""
        row = SlotRow(prompt, subject.behavior.target, subject.image)
        whole = SlottedTargets(self.bench.loaded, [row], num_free=0)
        width = self.bench.loaded.base.get_input_embeddings().weight.shape[1]
        nothing = torch.zeros(1, 0, width, device=self.bench.loaded.device)
        rows = torch.zeros(1, dtype=torch.int64, device=nothing.device)
        with self.bench.model(label):
            forced = whole.run(nothing, rows)
        return float(forced.cross_entropy()[0]), float(forced.reached()[0])
