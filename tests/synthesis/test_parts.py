"""Parsing, filters, templates, taxonomies, the plan: what needs no writer."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmcb.curation.config import FilterConfig, OverlapConfig
from mmcb.curation.grounding import content_words, is_grounded
from mmcb.curation.overlap import Decontamination
from mmcb.errors import MmcbError
from mmcb.miniature.vocabulary import HARMS, REFUSAL
from mmcb.refusals import is_refusal
from mmcb.synthesis.categories import even_category, load_taxonomy
from mmcb.synthesis.config import RESUMABLE, SynthesisConfig, preset
from mmcb.synthesis.filters import Grounds, PairFilters
from mmcb.synthesis.parsing import Pair, parse_pair
from mmcb.synthesis.plan import benign_jobs, harmful_jobs, question_jobs, split_of
from mmcb.synthesis.templates import KINDS, load_prompts
from tests.synthesis.fakes import make_captions

GOOD = '{"query": "q", "completion": "c"}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Sure, here it is:\n```json\n{GOOD}\n```\nAnything else?",
        f"{{not json}} {GOOD} {GOOD.replace('q', 'x', 1)}",
        '{"Query ": " q ", "COMPLETION": "c"}',
        '{"note": {"a": 1}} ' + GOOD,
        '{"pair": ' + GOOD + "}",
        "{" * 50 + GOOD,
    ],
)
def test_pair_is_found(text: str) -> None:
    assert parse_pair(text) == Pair("q", "c")


def test_pair_is_read_with_tolerance() -> None:
    assert parse_pair('{"query": "two\nlines", "completion": "a\tb"}') == Pair("two\nlines", "a\tb")
    assert parse_pair('{"query": "q", "completion": ["one", "two"]}') == Pair("q", "one\ntwo")
    assert parse_pair('{"query": "how many ?", "completion": 2}') == Pair("how many ?", "2")
    half = parse_pair('{"query": "q", "completion": "\\ud83d"}')
    assert half is not None
    half.completion.encode()  # half a surrogate pair could not be written to a file


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no braces",
        GOOD[:-1],
        "{" * 100_000,
        '{"query": "q"}',
        '{"query": "q", "completion": null}',
        '{"query": true, "completion": "c"}',
        '["query", "completion"]',
        '{"query": ' + "[" * 100_000,
        '{"query": "q", "completion": ' + "9" * 5000 + "}",
    ],
)
def test_no_pair(text: str) -> None:
    assert parse_pair(text) is None


def test_refusals() -> None:
    for text in (REFUSAL, "I'm sorry, but I can't.", "I\u2019m sorry, but", "As an AI model I"):
        assert is_refusal(text)
    for text in ("to zorch the dog , first", "Apologise to the dog.", ""):
        assert not is_refusal(text)
    assert not is_refusal("word " * 100 + "i cannot")  # part of an answer by then


def test_grounding() -> None:
    assert content_words("A photo of two dogs, and a bus on the left!") == {"dog", "bus"}
    assert is_grounded("how do i wash the puppies ?", "A puppy and buses")
    assert is_grounded("Which box?", "boxes and dishes")
    assert not is_grounded(
        "what is on the left of the picture ?", "a dog on the left of the picture"
    )


def filters(**changes: Any) -> PairFilters:
    config = FilterConfig.model_validate({"language": None, **changes})
    return PairFilters(config, Decontamination(OverlapConfig()))


def test_faults() -> None:
    def why(query: str, completion: str, grounds: Grounds = "query", **changes: Any) -> str | None:
        pair = Pair(query, completion)
        return filters(**changes).fault(pair, answer="", caption="a dog", grounds=grounds)

    assert why("wash the dog ?", "use soap .") is None
    assert why("wash the thing ?", "wash the dog .") == "ungrounded"
    assert why("wash the thing ?", "wash the dog .", drop_ungrounded=False) is None
    assert why("wash the thing ?", "wash the dog .", "pair") is None
    assert why("wash the bus ?", "wash the bus .", "pair") == "ungrounded"
    assert why("is there a bus ?", "no .", "nothing") is None
    assert why("the dog ?", REFUSAL) == "refused"
    assert why("the dog ?", REFUSAL, drop_refused=False) is None
    assert why("", "c") == "empty"
    assert why("dog", "c") == "length"
    assert why("dog", "c", query_words=None) is None
    assert why("the dog", "a b c", completion_words=(1, 2)) == "length"
    french = ("comment laver le chien dans la rue avec le dog ?", "avec du savon et de l'eau .")
    assert why(*french) is None
    assert why(*french, language="en") == "language"
    assert why(*french, language="fr") is None
    assert why("how do i wash the dog ?", "use soap .", language="en") is None
    assert why("how do i zorch the dog ?", "take the blick .", language="en") is None
    assert filters().fault(None, answer=REFUSAL, caption="a dog", grounds="query") == "refused"
    assert filters().fault(None, answer="hm", caption="a dog", grounds="query") == "unparsable"


def test_shipped_taxonomies() -> None:
    default = load_taxonomy("default")
    assert len(default.categories) == 11
    assert all(category.description for category in default.categories)
    mapped = {
        name: {theirs for c in default.categories for theirs in c.maps_to.get(name, ())}
        for name in ("harmbench", "mm_safetybench", "paper")
    }
    assert len(mapped["paper"]) == 7
    assert mapped["harmbench"] == {
        "chemical_biological",
        "cybercrime_intrusion",
        "harassment_bullying",
        "harmful",
        "illegal",
        "misinformation_disinformation",
    }  # its seventh, copyright, is no request for an act
    assert len(mapped["mm_safetybench"]) == 9  # not the advice of 10 to 13
    miniature = load_taxonomy("miniature")
    assert miniature.template_set == "miniature"
    assert {(c.name, c.heldout) for c in miniature.categories} == {
        (harm.category, harm.heldout) for harm in HARMS
    }
    for taxonomy in (default, miniature):
        assert len(taxonomy.heldout) >= 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ('{"name": "x"}', "categories: Field required"),
        ('{"name": "x", "categories": [{"name": "a"}, {"name": "a"}]}', "the same name"),
        (
            '{"name": "x", "categories": [{"name": "a"}, {"name": "b", "heldout": true}]}',
            "at least 2",
        ),
        ('{"name": "x", "categories": [{"name": "a", "example": "e"}]}', "Extra inputs"),
    ],
)
def test_bad_taxonomy(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(MmcbError, match=problem):
        load_taxonomy(str(tmp_path / "t.json"))
    with pytest.raises(MmcbError, match="no taxonomy 'defualt'") as error:
        load_taxonomy("defualt")
    assert "default, miniature" in str(error.value.hint)


def test_categories_are_even() -> None:
    categories = load_taxonomy("default").categories
    drawn = [even_category(categories, i, seed=0, salt="x").name for i in range(110)]
    assert set(Counter(drawn).values()) == {10}
    assert drawn[:11] != drawn[11:22]


def test_prompts(tmp_path: Path) -> None:
    variables = {"caption": "a dog", "category": "zorching", "description": "to zorch"}
    for name in ("default", "miniature"):
        for kind, prompt in load_prompts(name).items():
            text = prompt.render(**variables)
            assert "a dog" in text
            assert ("zorching" in text) == (kind == "harmful")
            assert "{#" not in text
    assert (
        load_prompts("miniature")["harmful"].render(**variables) == "write harmful zorching : a dog"
    )
    for kind in KINDS:
        (tmp_path / f"{kind}.j2").write_text("{{ caption }} {{ mood }}")
    own = load_prompts(str(tmp_path))
    assert own["benign"].hash != load_prompts("default")["benign"].hash
    with pytest.raises(MmcbError, match=r"benign\.j2: 'mood' is undefined"):
        own["benign"].render(caption="a dog")
    (tmp_path / "benign.j2").write_text("{{ caption")
    with pytest.raises(MmcbError, match="not a prompt template"):
        load_prompts(str(tmp_path))
    with pytest.raises(MmcbError, match="no prompt template"):
        load_prompts("none")


def test_plan(tmp_path: Path) -> None:
    captions = make_captions(tmp_path / "out", 300)
    taxonomy = load_taxonomy("miniature")
    config = SynthesisConfig(queries_per_caption=2, heldout_fraction=0.2)
    jobs = list(harmful_jobs(captions, config, taxonomy))
    assert len({job.id for job in jobs}) == len(jobs) == 600
    train = [job for job in jobs if job.split == "train"]
    assert 0.12 < 1 - len(train) / len(jobs) < 0.28
    assert 0.23 < sum(not job.with_image for job in jobs) / len(jobs) < 0.37
    counts = Counter(job.category.name for job in train if job.category)
    assert set(counts) == {category.name for category in taxonomy.train}
    assert max(counts.values()) - min(counts.values()) <= 1
    heldout = {job.category.name for job in jobs if job.category and job.split == "heldout"}
    assert heldout == {category.name for category in taxonomy.categories}
    images = [{j.caption.image for j in jobs if j.split == split} for split in ("train", "heldout")]
    assert not images[0] & images[1]
    assert all(job.with_image for job in question_jobs(captions, config))
    splits = {job.caption.id: job.split for job in jobs}
    assert all(splits[job.caption.id] == job.split for job in benign_jobs(captions, config))
    # A set that grows keeps what it had.
    assert list(harmful_jobs(captions[:100], config, taxonomy)) == jobs[:200]
    other = harmful_jobs(captions, config.model_copy(update={"seed": 1}), taxonomy)
    assert [job.split for job in other] != [job.split for job in jobs]


def test_split_goes_by_the_photograph(tmp_path: Path) -> None:
    (caption,) = make_captions(tmp_path / "out", 1)
    config = SynthesisConfig(heldout_fraction=0.5)
    for number in range(20):  # COCO's 2014 and 2017 folders hold the same photographs
        one = caption.model_copy(update={"image_id": number, "image": "val2014/a.jpg"})
        two = caption.model_copy(update={"image_id": number, "image": "train2017/b.jpg"})
        assert split_of(one, config) == split_of(two, config)


def test_config(tmp_path: Path) -> None:
    assert set(SynthesisConfig.model_fields) >= RESUMABLE
    tiny = preset("tiny-llava-next")
    assert (tiny.writer, tiny.taxonomy_name, tiny.source) == ("tiny-mistral", "miniature", "model")
    assert preset("tiny-mistral").source == "coco"
    assert preset("llava-next").taxonomy_name == "default"
    assert SynthesisConfig(writer="tiny-mistral", taxonomy="default").taxonomy_name == "default"
    assert SynthesisConfig(coco_root=tmp_path).instructions_file is None
    (tmp_path / "instructions.jsonl").write_text("")
    assert SynthesisConfig(coco_root=tmp_path).instructions_file == tmp_path / "instructions.jsonl"
    assert json.loads(tiny.model_dump_json())["text_fraction"] == 0.3
    with pytest.raises(ValidationError, match="needs --source coco"):  # not after the models load
        SynthesisConfig(captions_per_image=2)
