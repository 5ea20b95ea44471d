"""Taking a direction out of the residual stream, behind the embeddings and behind every block.

Source: Arditi et al., "Refusal in language models is mediated by a single direction" (arXiv
2406.11717), directional ablation. Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mmcb.errors import MmcbError
from mmcb.models.loading import LoadedModel


@contextlib.contextmanager
def without_direction(loaded: LoadedModel, direction: Float[Tensor, " D"] | None) -> Iterator[None]:
    """Inside, no block's input or output has a component along `direction`; None: nothing changes.

    Args:
        loaded: the model.
        direction: of any length but zero.

    Raises:
        MmcbError: the direction is zero or has another width than the model.
    """
    if direction is None:
        yield
        return
    width = loaded.base.get_input_embeddings().weight.shape[1]
    if direction.shape != (width,) or not bool(direction.norm() > 0):
        raise MmcbError(
            f"a direction of shape {tuple(direction.shape)} and length "
            f"{float(direction.norm()):.3g} cannot be taken out of a model of width {width}",
            hint="make the direction with the model that is steered",
        )
    unit = (direction.float() / direction.float().norm()).to(loaded.device)

    def ablate(hidden: Tensor) -> Tensor:
        along = (hidden.float() @ unit.to(hidden.device)).unsqueeze(-1)
        return (hidden.float() - along * unit.to(hidden.device)).to(hidden.dtype)

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (ablate(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": ablate(kwargs["hidden_states"])}

    def after(module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (ablate(output[0]), *output[1:])
        return ablate(output)

    layers = loaded.decoder_layers
    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [layer.register_forward_hook(after) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
