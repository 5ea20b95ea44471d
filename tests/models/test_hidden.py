import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcb.models.chat import encode
from mmcb.models.hidden import embed_inputs, image_features, position_ids_of, run_blocks
from mmcb.models.loading import LoadedModel
from mmcb.models.preprocess import pixel_preprocessor
from mmcb.records import Message


def make_batch(loaded: LoadedModel, *, side: str, images: bool) -> dict[str, Tensor]:
    questions = ("what is in the picture ?", "how do i feed the dog ? to feed the dog")
    sizes = [(50, 80), (112, 70)] if images else [None, None]
    rows = [
        encode(loaded, [Message(role="user", content=text)], image_size=size).input_ids
        for text, size in zip(questions, sizes, strict=True)
    ]
    length = max(map(len, rows)) + 2
    ids, mask = [], []
    for row in rows:
        pad = length - len(row)
        filler = [loaded.tokenizer.pad_token_id] * pad
        ids.append(filler + row if side == "left" else row + filler)
        mask.append([0] * pad + [1] * len(row) if side == "left" else [1] * len(row) + [0] * pad)
    batch = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if images:
        pictures = [Image.new("RGB", (w, h), (200, h, w)) for h, w in filter(None, sizes)]
        batch |= dict(loaded.processor.image_processor(images=pictures, return_tensors="pt"))
    return batch


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llm", "vlm", "vlm without images"])
def test_equal_to_the_full_models_hidden_states(
    kind: str, side: str, vlm: LoadedModel, llm: LoadedModel
) -> None:
    loaded = llm if kind == "llm" else vlm
    batch = make_batch(loaded, side=side, images=kind == "vlm")
    mask = batch["attention_mask"]
    positions = position_ids_of(mask)
    with torch.no_grad():
        expected = loaded.model(
            **batch, position_ids=positions, output_hidden_states=True
        ).hidden_states
        states = run_blocks(
            loaded,
            embed_inputs(loaded, batch),
            mask,
            positions,
            start=0,
            stop=8,
            collect=set(range(9)),
        )
        states[8] = loaded.decoder.norm(states[8])
        real = mask.bool()
        for k in range(9):
            assert torch.equal(states[k][real], expected[k][real])
        resumed = run_blocks(loaded, states[3], mask, None, start=3, stop=6, collect={3, 6})
        assert set(resumed) == {3, 6}
        assert torch.equal(resumed[6][real], expected[6][real])


@pytest.mark.parametrize("kind", ["llm", "vlm"])
def test_padding_changes_nothing(kind: str, vlm: LoadedModel, llm: LoadedModel) -> None:
    loaded = llm if kind == "llm" else vlm
    results = []
    for side in ("left", "right"):
        batch = make_batch(loaded, side=side, images=kind == "vlm")
        with torch.no_grad():
            states = run_blocks(
                loaded,
                embed_inputs(loaded, batch),
                batch["attention_mask"],
                None,
                start=0,
                stop=5,
                collect={5},
            )
        results.append(states[5][batch["attention_mask"].bool()])
    assert torch.allclose(*results, atol=1e-5)


def test_sliding_window_is_respected(llm: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.decoder.config, "sliding_window", 4)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        expected = llm.model(input_ids=ids, output_hidden_states=True).hidden_states
        states = run_blocks(
            llm,
            embed_inputs(llm, {"input_ids": ids}),
            None,
            None,
            start=0,
            stop=4,
            collect={4},
        )
    assert torch.equal(states[4], expected[4])


def test_one_by_one_is_the_same_image(vlm: LoadedModel) -> None:
    batch = make_batch(vlm, side="left", images=True)
    with torch.no_grad():
        together = image_features(vlm, batch["pixel_values"], batch["image_sizes"])
        apart = image_features(vlm, batch["pixel_values"], batch["image_sizes"], one_by_one=True)
    for left, right in zip(together, apart, strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def test_images_and_text_only_examples_share_a_batch(vlm: LoadedModel) -> None:
    batch = make_batch(vlm, side="left", images=True)
    plain = make_batch(vlm, side="left", images=False)
    width = batch["input_ids"].shape[1]
    row = torch.nn.functional.pad(plain["input_ids"][:1], (width - plain["input_ids"].shape[1], 0))
    mixed = batch | {"input_ids": torch.cat([batch["input_ids"][:1], row, batch["input_ids"][1:]])}
    with torch.no_grad():
        hidden = embed_inputs(vlm, mixed)
        assert torch.equal(hidden[[0, 2]], embed_inputs(vlm, batch))


def test_gradient_reaches_raw_pixels(vlm: LoadedModel) -> None:
    image = torch.rand(1, 3, 50, 80, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pixel_values, image_sizes = pixel_preprocessor(vlm)(image)
    encoded = encode(vlm, [Message(role="user", content="what ?")], image_size=(50, 80))
    batch = {
        "input_ids": torch.tensor([encoded.input_ids]),
        "pixel_values": pixel_values,
        "image_sizes": image_sizes,
    }
    states = run_blocks(vlm, embed_inputs(vlm, batch), None, None, start=0, stop=4, collect={4})
    (gradient,) = torch.autograd.grad(states[4][:, -1].square().sum(), image)
    assert (gradient != 0).float().mean() > 0.99


def test_misuse(vlm: LoadedModel) -> None:
    hidden = torch.zeros(1, 3, 96)
    with pytest.raises(ValueError, match="blocks"):
        run_blocks(vlm, hidden, None, None, start=0, stop=9, collect={9})
    with pytest.raises(ValueError, match="not made"):
        run_blocks(vlm, hidden, None, None, start=2, stop=4, collect={1, 4})
    batch = make_batch(vlm, side="left", images=True)
    batch["input_ids"] = batch["input_ids"][:, 30:]
    with pytest.raises(ValueError, match="image tokens"):
        embed_inputs(vlm, batch)
