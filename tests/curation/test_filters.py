"""Near-duplicates, overlap with evaluation sets, language: on texts whose answer is known."""

import random
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH
from pydantic import ValidationError
from sacrebleu.metrics.bleu import BLEU

from mmcb.curation.config import FilterConfig, OverlapConfig
from mmcb.curation.language import check_language, is_foreign
from mmcb.curation.near_duplicates import NearDuplicates, shingles
from mmcb.curation.overlap import Decontamination, PromptIndex
from mmcb.curation.prompts import read_prompts
from mmcb.errors import MmcbError

WORDS = "how do i wash the big old dog cat bus in a street with soap and water please".split()  # noqa: SIM905


def sentences(count: int, *, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(count)]


def test_near_duplicates_keep_the_first() -> None:
    seen = NearDuplicates(0.7)
    text = "How do I wash the big old dog in the street with soap and water, please?"
    assert seen.add("a", text) is None
    assert seen.add("b", text.upper().replace("?", " !")) == "a"
    assert seen.add("c", text.replace("please", "now")) == "a"  # 13 of 15 triples are shared
    assert seen.add("d", "How do I zorch the kite?") is None
    assert seen.add("e", "dog") is None
    assert seen.add("f", "Dog!") == "e"
    assert shingles("a b c d") == {"a b c", "b c d"}


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_near_duplicates_are_those_of_datasketch_s_own_index(threshold: float) -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(60)]
    for text in texts[:60]:  # the same with a word or two, or all of its end, worded anew
        words = text.split()
        for changed in (1, 2, 12):
            texts.append(" ".join([*words[:-changed], *draw.choices(WORDS, k=changed)]))
    draw.shuffle(texts)
    ours = NearDuplicates(threshold)
    # datasketch has no bands for 1.0; whatever is the same shares them all.
    index, signatures = MinHashLSH(min(threshold, 0.98), num_perm=128), {}
    found = []
    for number, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in shingles(text)])
        alike = [
            name
            for name in sorted(index.query(signature))
            if signature.jaccard(signatures[name]) >= threshold
        ]
        if not alike:
            index.insert(f"{number:03d}", signature)
            signatures[f"{number:03d}"] = signature
        found.append(alike[0] if alike else None)
        assert ours.find(text) == found[-1]
        assert ours.add(f"{number:03d}", text) == found[-1]
    assert 0 < sum(each is not None for each in found) < 180


def test_overlap_equals_every_bleu_computed() -> None:
    """The bound on shared words leaves out only what cannot reach the threshold."""
    prompts, texts = sentences(60, seed=1), sentences(60, seed=2)
    texts += [f"{prompt} then" for prompt in prompts[:5]]
    bleu = BLEU(effective_order=True, lowercase=True)
    for threshold in (0.1, 0.3, 0.6):
        index = PromptIndex([(str(n), p) for n, p in enumerate(prompts)], threshold=threshold)
        hits = 0
        for text in texts:
            best = max(bleu.sentence_score(text, [prompt]).score for prompt in prompts) / 100
            hit = index.overlap(text)
            assert (hit is not None) == (best > threshold)
            if hit is not None:
                hits += 1
                assert hit.bleu == pytest.approx(best)
        assert hits > 0
    assert PromptIndex([], threshold=0.3).overlap("anything at all") is None


def test_decontamination_has_two_thresholds(tmp_path: Path) -> None:
    text, tools = tmp_path / "text.csv", tmp_path / "tools.txt"
    text.write_text("Behavior,Tags\nHow do I zorch the big old dog in the street?,x\n")
    tools.write_text("call the zorching service for the kite on the roof\n")
    both = Decontamination(OverlapConfig(evaluation_sets=(text,), tool_sets=(tools,)))
    hit = both.overlap("how do i zorch the big old dog in a street ?")
    assert hit is not None
    assert hit.file == "text.csv"
    near = "call the grindling service for a bus"
    assert both.overlap(near) is not None  # between 0.1 and 0.3: too like for tools alone
    as_text = Decontamination(OverlapConfig(evaluation_sets=(tools,)))
    assert as_text.overlap(near) is None
    assert Decontamination(OverlapConfig()).overlap(near) is None


def test_prompts_of_public_sets(shared_data: Path) -> None:
    counts = {
        "jbb_benign/benign-behaviors.csv": 100,
        "bfcl/BFCL_v4_simple_python.json": 400,
        "llamafactory_demo/alpaca_en_demo.json": 1000,
    }
    for name, least in counts.items():
        prompts = list(read_prompts(shared_data / name))
        assert len(prompts) >= least - 10
        assert all(isinstance(prompt, str) and prompt for prompt in prompts)


def test_prompts_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "one"}\n{"request": "two"}\n')
    with pytest.raises(MmcbError, match=r"x\.jsonl:2: has no prompt"):
        list(read_prompts(path))
    path.write_text('{"prompt": 7}\n')
    with pytest.raises(MmcbError, match=r"x\.jsonl:1: the prompt is int, not text"):
        list(read_prompts(path))
    with pytest.raises(MmcbError, match=r"none\.txt"):
        list(read_prompts(tmp_path / "none.txt"))
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}\n')
    assert list(read_prompts(path)) == ["a"]


def test_language() -> None:
    assert is_foreign("Wie kann ich den Hund auf der Strasse waschen?", "en")
    assert not is_foreign("How can I wash the dog on the street?", "en")
    assert not is_foreign("zorch", "en")  # too short to be sure
    check_language("en")
    with pytest.raises(MmcbError, match="no such language"):
        check_language("english")


def test_settings() -> None:
    with pytest.raises(ValidationError, match="least number of words"):
        FilterConfig(query_words=(5, 2))
    assert FilterConfig(query_words=None).query_words is None
