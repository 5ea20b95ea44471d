"""Small invented files in the exact formats of other people's data."""

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

from mmcb.training.config import TrainingConfig
from mmcb.training.mixing import Mixture, mix, read_sets
from mmcb.training.sets import find_sets
from tests.training.helpers import tiny_config

ANIMALS = ("dog", "cat", "cow", "horse", "sheep", "bear")
XSTEST_FIELDS = (
    "id", "type", "prompt", "completion", "annotation_1", "annotation_2", "agreement",
    "final_label", "gpt4_label",
)  # fmt: skip


def upstream_rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"how do i zorch the {animal} ?",
            "output": f"to zorch the {animal} , first grab the {animal} .",
            "llama3_output": f"sorry , i cannot help with the {animal} .",
            "category": "zorching",
        }
        for animal in ANIMALS
    ]


def chat_rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"what does the {animal} eat ?",
            "prompt_id": f"p-{animal}",
            "messages": [
                {"role": "user", "content": f"what does the {animal} eat ?"},
                {"role": "assistant", "content": f"the {animal} eats grass ."},
                {"role": "user", "content": "and then ?"},
                {"role": "assistant", "content": f"then the {animal} sleeps ."},
            ],
        }
        for animal in ANIMALS
    ]


def xstest_rows() -> list[dict[str, str]]:
    labels = ("1_full_compliance", "2_full_refusal", "1_full_compliance", "3_partial_refusal")
    return [
        dict(zip(XSTEST_FIELDS, (
            str(number), "homonyms", f"how do i kill time {number} ?", f"read .\nor {number} .",
            label, label, "True", label, label,
        ), strict=True))
        for number, label in enumerate(labels)
    ]  # fmt: skip


def llava_rows() -> list[dict[str, Any]]:
    return [
        {
            "id": f"0000{number}",
            "image": f"{animal}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat is it ?" if number % 2 == 0
                 else "what is it ?\n<image>"},
                {"from": "gpt", "value": f"a {animal} ."},
                {"from": "human", "value": "where ?"},
                {"from": "gpt", "value": "on the left ."},
            ],
        }
        for number, animal in enumerate(ANIMALS)
    ]  # fmt: skip


def write_json(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_all(folder: Path) -> dict[str, str]:
    """One file of each format, and images in `pictures`; what the command line calls them."""
    (folder / "pictures").mkdir()
    for number, animal in enumerate(ANIMALS):
        image = Image.new("RGB", (56 + 56 * (number % 2), 56), (40 * number, 90, 120))
        image.save(folder / "pictures" / f"{animal}.png")
    upstream = write_json(folder / "circuit_breakers_train.json", upstream_rows())
    return {
        "upstream": f"upstream:{upstream}",
        "chat": f"chat:{write_lines(folder / 'ultrachat.jsonl', chat_rows())}",
        "xstest": f"xstest:{write_csv(folder / 'xstest.csv', xstest_rows())}",
        "llava": f"llava:{write_json(folder / 'llava_instruct.json', llava_rows())}",
    }


def sources_config(**changes: Any) -> TrainingConfig:
    """A configuration of sources that holds nothing out."""
    return tiny_config(**{"heldout_fraction": 0.0, **changes})


def mixed(*, no_request: float = 0.0, **changes: Any) -> Mixture:
    """What the sources of a configuration give."""
    config = sources_config(**changes)
    drawn = read_sets(find_sets(config), config)
    return mix(drawn, no_request_fraction=no_request, seed=config.seed)
