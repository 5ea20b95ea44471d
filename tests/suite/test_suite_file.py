"""Suite files: what is shipped can be read, and every mistake is one sentence."""

from pathlib import Path

import pytest

from mmcb.errors import MmcbError
from mmcb.suite.commands import COMMANDS
from mmcb.suite.config import SuiteConfig, preset
from mmcb.suite.file import FOLDER, read_suite
from mmcb.suite.stages import attack_stages, evaluation_config

SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_hold_every_attack(name: str, tmp_path: Path) -> None:
    suite = read_suite(name)
    assert {entry.command.runner for entry in suite.entries} == {
        command.runner for command in COMMANDS.values()
    }
    plain = tmp_path / "plain.jsonl"
    config = SuiteConfig(suite=name, num_behaviors=3, text_behaviors=plain)
    stages = attack_stages(config, suite, adapter=tmp_path, text_only=False, out=tmp_path)
    assert [stage.path.name for stage in stages] == [entry.name for entry in suite.entries]
    counts = {stage.config.model_dump().get("num_behaviors", 3) for stage in stages}
    assert counts <= {1, 2, 3}
    evaluation = evaluation_config(config, suite, stages, adapter=tmp_path, out=tmp_path)
    assert len(evaluation.hijacks) == sum(s.command.leaves_attempts for s in stages) > 10
    assert evaluation.limit == 3
    assert len(evaluation.hijacks) + len(evaluation.beside) == len(stages)
    (on_text,) = (stage for stage in stages if stage.name == "gcg-text")
    assert on_text.config.model_dump()["behaviors"] == plain
    without = config.model_copy(update={"text_behaviors": None})
    fewer = attack_stages(without, suite, adapter=tmp_path, text_only=False, out=tmp_path)
    assert len(fewer) == len(stages) - 1


def test_files_of_others_come_from_the_command_line_or_the_suite(tmp_path: Path) -> None:
    suite = read_suite("miniature")
    own = evaluation_config(SuiteConfig(), suite, [], adapter=None, out=tmp_path)
    assert [path.parts[-4] for path in own.cases] == ["HumanJailbreaks", "CheckeredSign"]
    mine, words = tmp_path / "pair.json", tmp_path / "words.json"
    config = SuiteConfig(cases=(mine,), translations=words)
    given = evaluation_config(config, suite, [], adapter=None, out=tmp_path)
    assert (given.cases, given.translations, given.scripts) == ((mine,), words, own.scripts)


def test_presets_fill_what_the_suite_leaves_open() -> None:
    entries = {entry.name: entry for entry in read_suite("published").entries}
    assert entries["pgd-cb-paper"].settings["steps"] == 1000
    assert entries["pgd-adaptive"].settings["steps"] == 500
    assert entries["pgd-adaptive"].settings["start"] == "base"


def test_a_text_only_model_gets_the_attacks_without_images(tmp_path: Path) -> None:
    config = preset("tiny-mistral")
    assert (config.suite, config.behaviors) == ("miniature", None)
    suite = read_suite(config.suite)
    stages = attack_stages(config, suite, adapter=None, text_only=True, out=tmp_path)
    assert {stage.command.runner for stage in stages} == {
        command.runner for command in COMMANDS.values() if not command.needs_images
    }
    for stage in stages:
        settings = stage.config.model_dump()
        behaviors = settings["behaviors"] or settings["text_behaviors"]
        assert behaviors == config.text_behaviors
        assert settings["adapter"] == "none"


def test_only_names_attacks(tmp_path: Path) -> None:
    suite = read_suite("published")
    config = SuiteConfig(only=("gcg",))
    (stage,) = attack_stages(config, suite, adapter=None, text_only=False, out=tmp_path)
    assert stage.name == "gcg"
    config = SuiteConfig(only=("gsg",))
    with pytest.raises(MmcbError, match="no attack 'gsg'"):
        attack_stages(config, suite, adapter=None, text_only=False, out=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attack = 3", r"mine.toml: attacks stand under \[\[attack\]\]"),
        ("[[attack]", "mine.toml: not TOML"),
        ("[atack]", "mine.toml: unknown key 'atack'"),
        ("[[attack]]\ncommand = 'attacks.gcg'", "mine.toml: attack 1 has no name"),
        ("[[attack]]\nname = '../x'", "'../x' is no name for an attack"),
        ("[[attack]]\nname = 'x'", "attack 'x' has no command"),
        ("[[attack]]\nname = 'x'\ncommand = 'attack.gcg'", "unknown command 'attack.gcg'"),
        ("[[attack]]\nname = 'x'\ncommand = 'attacks.gcg'\non = 'it'", "attack 'x': on = 'it'"),
        (2 * "[[attack]]\nname = 'x'\ncommand = 'attacks.gcg'\n", "two attacks are called 'x'"),
    ],
)
def test_a_bad_suite_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MmcbError, match=message) as caught:
        read_suite(write(tmp_path, text))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 3", "attack 'x': stpes: Extra inputs"),
        ("steps = 0", "attack 'x': steps: Input should be greater than or equal to 1"),
        ("steps = 1\n[evaluation]\nsamples = 0", r"\[evaluation\]: samples: Input should be"),
    ],
)
def test_a_bad_setting_names_its_attack(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, f"[[attack]]\nname = 'x'\ncommand = 'attacks.gcg'\n{text}\n")
    with pytest.raises(MmcbError, match=message):
        _check(SuiteConfig(suite=path), tmp_path)


def _check(config: SuiteConfig, out: Path) -> None:
    suite = read_suite(config.suite)
    stages = attack_stages(config, suite, adapter=None, text_only=False, out=out)
    evaluation_config(config, suite, stages, adapter=None, out=out)


def test_an_unknown_suite_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(MmcbError, match="no such suite or file") as caught:
        read_suite("minature")
    assert ", ".join(SHIPPED) in str(caught.value.hint)
