"""A loaded model as lm-eval takes it: text through its `hf`, pictures through its `hf-multimodal`.

One model serves both roles: the base is the defended model with its adapter switched off.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM

from mmcb.models.loading import LoadedModel


class _Multimodal(HFMultimodalLM):
    """`hf-multimodal` with a processor that is loaded already.

    lm-eval's own takes a model in memory, but then looks for its processor on the hub.
    """

    def __init__(self, loaded: LoadedModel, **settings: Any) -> None:
        self._processor_given = loaded.processor
        super().__init__(loaded.base, **settings)

    def _create_tokenizer(self, *_: Any, **__: Any) -> None:
        self.processor = self._processor_given
        self.tokenizer = self.processor.tokenizer


def harness_model(loaded: LoadedModel, *, batch_size: int) -> Any:
    """lm-eval's object for a model; an adapter that is switched on counts."""
    if loaded.is_vlm:
        return _Multimodal(loaded, backend="causal", batch_size=batch_size)
    return HFLM(loaded.base, backend="causal", tokenizer=loaded.tokenizer, batch_size=batch_size)
