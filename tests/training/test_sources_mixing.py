"""Sources on the command line, exact and seeded mixing, emptied requests, data sets of the hub."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmcb.cli import parse_config
from mmcb.errors import MmcbError
from mmcb.models.chat import render
from mmcb.models.families import find_family
from mmcb.sources.drawing import draw, without_request
from mmcb.sources.source import HubSet, Source, parse_source
from mmcb.training.config import TrainingConfig
from mmcb.training.mixing import Mixture
from mmcb.training.recipes import preset, resolve_recipe
from mmcb.training.sets import find_sets, input_files
from tests.training.helpers import Load, tiny_config
from tests.training.source_files import (
    ANIMALS,
    chat_rows,
    mixed,
    sources_config,
    write_all,
    write_json,
)

Files = dict[str, str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_all(tmp_path)


def parse(*args: str) -> TrainingConfig:
    return parse_config(
        TrainingConfig, args, prog="training", preset=preset, default_model="tiny-mistral"
    )


def formats(mixture: Mixture) -> Counter[Any]:
    return Counter(e.provenance.settings.get("format") for _, e in mixture.pairs)


def test_a_source_is_read_and_written_alike() -> None:
    for text, source in {
        "chat:mine.jsonl": Source(format="chat", place="mine.jsonl"),
        "xstest:a/b.csv@11500": Source(format="xstest", place="a/b.csv", count=11500),
        "llava:me@home.json": Source(format="llava", place="me@home.json"),
        "llava:me@7.json@3": Source(format="llava", place="me@7.json", count=3),
    }.items():
        assert parse_source(text) == source
        assert str(source) == text


def test_ids_of_the_hub_are_told_from_files(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source("chat:a/b#test_sft@5").hub == HubSet("a/b", None, "test_sft")
    assert parse_source("chat:a/b:v1.0").hub == HubSet("a/b", "v1.0", "train")
    assert parse_source("chat:a/b.json").hub is None
    assert parse_source("chat:a/b/c").hub is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    assert parse_source("chat:a/b").hub is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mine.json", "begin with the format, one of mmcb, upstream, chat, xstest, llava"),
        ("sharegpt:mine.json", "begin with the format"),
        ("chat:", "names no file"),
        ("chat:mine.json@0.5", "after @ stands how many examples to draw"),
        ("chat:mine.json@0", "after @ stands how many"),
        ("chat:mine.json@x50", "after @ stands how many"),
        ("chat:mine.json@", "after @ stands how many"),
        ("xstest:mine.csv", "takes no xstest"),
    ],
)
def test_a_bad_source_names_its_flag(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match=f"--circuit-breaker-data.*{problem}"):
        parse("--circuit-breaker-data", text)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"circuit_breaker_data": [text]}))
    with pytest.raises(MmcbError, match=f"config.json: .*--circuit-breaker-data.*{problem}"):
        parse("--config", str(file))


def test_sources_come_back_from_a_runs_settings(files: Files, tmp_path: Path) -> None:
    config = parse(
        "--circuit-breaker-data", files["upstream"],
        "--retain-data", files["chat"] + "@7", files["xstest"],
    )  # fmt: skip
    assert [str(source) for source in config.retain_data] == [files["chat"] + "@7", files["xstest"]]
    assert json.loads(config.model_dump_json())["retain_data"][0] == {
        "format": "chat", "place": files["chat"].removeprefix("chat:"), "count": 7,
    }  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert parse("--config", str(file)) == config


def test_a_missing_file_names_its_flag(files: Files) -> None:
    with pytest.raises(MmcbError, match=r"--retain-data chat:nowhere\.json@3: no such file"):
        find_sets(tiny_config(retain_data=["chat:nowhere.json@3"]))


def test_one_set_may_be_mmcbs_own(files: Files, data_folder: Path) -> None:
    sets = find_sets(tiny_config(data=data_folder, retain_data=[files["chat"], files["xstest"]]))
    assert [str(s) for s in sets["circuit_breaker"]] == [
        f"mmcb:{data_folder / 'circuit_breaker.jsonl'}"
    ]
    assert sorted(input_files(sets)) == ["circuit_breaker", "retain_1", "retain_2"]
    both = {"circuit_breaker_data": [files["upstream"]], "retain_data": [files["chat"]]}
    with pytest.raises(MmcbError, match=r"--data .* would not be read"):
        find_sets(tiny_config(data=data_folder, **both))


def test_counts_are_exact_and_repeats_even(files: Files) -> None:
    mixture = mixed(
        circuit_breaker_data=[files["upstream"]],
        retain_data=[files["upstream"] + "@4", files["chat"] + "@3", files["xstest"] + "@7"],
    )
    retain = [e for _, e in mixture.pairs if e.kind == "retain"]
    assert Counter(e.provenance.settings["format"] for e in retain) == {
        "upstream": 4, "chat": 3, "xstest": 7,
    }  # fmt: skip
    assert [part.train for part in mixture.parts] == [len(ANIMALS), 4, 3, 7]
    xstest = Counter(e.id for e in retain if e.provenance.settings["format"] == "xstest")
    assert sorted(xstest.values()) == [3, 4]  # two usable rows
    assert (mixture.parts[3].records, mixture.parts[3].not_taken) == (4, 2)
    others = Counter(e.id for e in retain if e.provenance.settings["format"] != "xstest")
    assert set(others.values()) == {1}


def test_mixing_is_a_function_of_the_seed(files: Files) -> None:
    def once(seed: int) -> Mixture:
        return mixed(
            seed=seed, no_request=0.5, heldout_fraction=0.3,
            circuit_breaker_data=[files["upstream"]], retain_data=[files["chat"] + "@3"],
        )  # fmt: skip

    assert once(0) == once(0)
    seen = {tuple(part.hash for part in once(seed).parts) for seed in range(6)}
    assert len(seen) > 3


def test_what_is_drawn_does_not_depend_on_the_order(files: Files) -> None:
    examples = [e for _, e in mixed(circuit_breaker_data=[files["upstream"]],
                                    retain_data=[files["chat"]]).pairs]  # fmt: skip
    for count in (1, 5, len(examples), 2 * len(examples) + 1):
        one = draw(examples, count=count, seed=3)
        other = draw(examples[::-1], count=count, seed=3)
        assert len(one) == count
        assert Counter(e.id for e in one) == Counter(e.id for e in other)
    assert draw(examples, count=None, seed=3) == examples


def test_a_request_is_held_out_from_both_sets(files: Files) -> None:
    mixture = mixed(
        heldout_fraction=0.5, seed=1,
        circuit_breaker_data=[files["upstream"]], retain_data=[files["upstream"]],
    )  # fmt: skip
    sides: dict[str, set[str]] = {}
    for _, example in mixture.pairs:
        sides.setdefault(example.messages[0].content, set()).add(example.split)
    assert len(sides) == len(ANIMALS)
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for split in side} == {"train", "heldout"}
    for part in mixture.parts:
        assert part.train + part.heldout == len(ANIMALS)


def test_requests_are_emptied_in_exactly_the_share_asked_for(files: Files) -> None:
    mixture = mixed(
        no_request=0.5,
        circuit_breaker_data=[files["upstream"]], retain_data=[files["chat"], files["xstest"]],
    )  # fmt: skip
    emptied = [e for _, e in mixture.pairs if e.messages[0].content == ""]
    assert [part.no_request for part in mixture.parts] == [3, 3, 1]
    assert len(emptied) == 7
    answers = {row["messages"][1]["content"] for row in chat_rows()}
    for example in emptied:
        assert [m.role for m in example.messages] == ["user", "assistant"]
        if example.provenance.settings["format"] == "chat":
            assert example.response in answers  # of several turns, the first


def test_an_emptied_request_keeps_the_templates_tags(files: Files, load: Load) -> None:
    mixture = mixed(circuit_breaker_data=[files["upstream"]], retain_data=[files["chat"]])
    example = without_request(mixture.pairs[0][1])
    text = render(load("llm"), example.messages, has_image=False)
    assert text == "[INST]  [/INST] to zorch the dog , first grab the dog .</s>"


def test_only_llama_3_empties_requests_by_default() -> None:
    for name, share in (("llama-3", 0.5), ("mistral", 0.0), ("llava-next", 0.0)):
        assert resolve_recipe(preset(name), find_family(name)).no_request_fraction == share
    changed = preset("llama-3").model_copy(update={"no_request_fraction": 0.25})
    assert resolve_recipe(changed, find_family("llama-3")).no_request_fraction == 0.25


def test_a_source_without_anything_to_train_on_says_so(files: Files, tmp_path: Path) -> None:
    empty = write_json(tmp_path / "empty.json", [])
    with pytest.raises(MmcbError, match=r"--retain-data chat:.*empty\.json: no training records"):
        mixed(circuit_breaker_data=[files["upstream"]], retain_data=[f"chat:{empty}"])


def test_a_wrong_image_folder_says_so(files: Files) -> None:
    with pytest.raises(MmcbError, match=r"none of its images is there.*dog\.png") as caught:
        mixed(circuit_breaker_data=[files["upstream"]], retain_data=[files["llava"]])
    assert "--image-folder" in str(caught.value.hint)


def test_an_unknown_set_of_the_hub_is_one_sentence(files: Files) -> None:
    with pytest.raises(MmcbError, match=r"^nobody/nothing: no such file here, and no data set"):
        mixed(circuit_breaker_data=[files["upstream"]], retain_data=["chat:nobody/nothing"])


def test_a_set_of_the_hub_is_read_row_by_row(files: Files, monkeypatch: Any) -> None:
    import datasets

    asked: list[Any] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def load(id_: str, **options: Any) -> Any:
        asked.append((id_, options))
        data = datasets.Dataset.from_list(chat_rows())
        data.info.download_checksums = {f"hf://datasets/{id_}@{commit}/a.parquet": {}}
        return data

    monkeypatch.setattr(datasets, "load_dataset", load)
    settings: dict[str, Any] = {
        "circuit_breaker_data": [files["upstream"]], "retain_data": ["chat:some/chats:main#test@4"],
    }  # fmt: skip
    mixture = mixed(**settings)
    assert asked == [("some/chats", {"split": "test", "revision": "main"})]
    part = mixture.parts[1]
    assert (part.source, part.revision) == ("chat:some/chats:main#test@4", commit)
    assert part.train == 4
    assert mixture.pairs[-1][1].provenance.revision == commit
    assert sorted(input_files(find_sets(sources_config(**settings)))) == ["circuit_breaker"]

    bad = [*chat_rows()[:2], {"messages": []}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.Dataset.from_list(bad))
    with pytest.raises(MmcbError, match=r"some/chats#test\[2\]: messages: must be a list"):
        mixed(**settings)
