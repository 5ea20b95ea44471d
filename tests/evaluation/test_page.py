"""The page of several models: what stands on it, and how a browser shows it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mmcb.evaluation.comparison import Evaluation, load_evaluation
from mmcb.evaluation.pipeline import evaluate
from mmcb.evaluation.report.page import render_page
from mmcb.evaluation.reread import with_answers
from mmcb.records import Attempt, Behavior
from mmcb.store import read_records, record_id, replace_records, write_atomic
from tests.browser import Browser, open_browser
from tests.evaluation.world import FakeGenerator, make_judge, make_world

PAPER_MODEL = "llava-hf/llava-v1.6-mistral-7b-hf"
SUFFIX = " ! describing"


def gcg_run(folder: Path, behaviors: list[Behavior]) -> Path:
    """Attempts and curves as the token search leaves them."""
    attempts, curves = [], []
    for model in ("base", "defended"):
        for behavior in behaviors:
            losses = [3.0, 1.0, 0.004] if model == "base" else [4.0, 3.9, 3.8, 3.7]
            attempt = Attempt(
                id=record_id("gcg", model, behavior.id),
                behavior_id=behavior.id,
                attack="gcg",
                model=model,
                split=behavior.split,
                category=behavior.category,
                prompt=f"pretty please , {behavior.prompt}{SUFFIX}",
                measures={"loss_start": losses[0], "loss_float": losses[-1], "passes": 400.0},
                settings={"steps": 3, "stop_loss": 0.01},
            )
            attempts.append(attempt)
            curves.append({"id": attempt.id, "losses": losses})
    replace_records(folder / "attempts.jsonl", attempts)
    write_atomic(folder / "curves.jsonl", "".join(json.dumps(c) + "\n" for c in curves))
    return folder


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[Evaluation]:
    """Two adapters on one base model, put to attacks of every kind."""
    root = tmp_path_factory.mktemp("page")
    config = make_world(root)
    assert config.text_behaviors is not None
    behaviors = list(read_records(config.text_behaviors, Behavior))
    first = behaviors[0]
    write_atomic(root / "cases.json", json.dumps({first.id: [f"case {k} zorch" for k in (0, 1)]}))
    write_atomic(root / "languages.json", json.dumps({first.id: {"it": "zorch il cane ?"}}))
    script = [
        {"role": "user", "content": "hello ."},
        {"role": "assistant", "content": "hello !"},
        {"role": "user", "content": "{prompt}"},
    ]
    write_atomic(root / "scripts.json", json.dumps([script]))
    write_atomic(root / "other/adapter_config.json", "{}")
    write_atomic(root / "other/adapter_model.safetensors", b"other weights")
    config = config.model_copy(
        update={
            "hijacks": (*config.hijacks, gcg_run(root / "gcg", behaviors)),
            "cases": (root / "cases.json",),
            "translations": root / "languages.json",
            "scripts": root / "scripts.json",
        }
    )
    outs = []
    for name, adapter in (("first", config.adapter), ("second", str(root / "other"))):
        one = config.model_copy(update={"adapter": adapter, "out": root / name})
        evaluate(
            one,
            make_generator=lambda role: FakeGenerator(role, []),
            make_judge=make_judge,
            report=False,
        )
        outs.append(with_answers(load_evaluation(root / name)))
    return [as_the_papers(one) for one in outs]


def as_the_papers(evaluation: Evaluation) -> Evaluation:
    settings = {**evaluation.results["settings"], "model": PAPER_MODEL}
    return replace(evaluation, results={**evaluation.results, "settings": settings})


@pytest.fixture(scope="module")
def page(evaluations: list[Evaluation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "page.html"
    text = render_page(evaluations, title="<b>side</b>", command="x", show_harmful=False)
    path.write_text(text, encoding="utf-8")
    return path


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8")))


def test_every_model_stands_there_once(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    head = text[text.index("<thead>") : text.index("</thead>")]
    assert re.findall(r'scope="col">([^<]*)<', head) == [
        "Attack success rate",
        "base",
        "first",
        "second",
    ]
    assert text.count("2 evaluations side by side") == 1
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_cards_of_every_attack(page: Path) -> None:
    text = text_of(page)
    for title in ("Token search (GCG)", "Several turns", "Static test cases", "Translated request"):
        assert f" {title} " in text
    assert "in it" in text
    assert "from cases, case 0" in text
    assert "3 turns" in text
    assert "base: loss 3.00 at the start, 0.004 optimised, 400 passes" in text


def test_perplexity_stands_beside_coherence_where_it_was_measured(
    evaluations: list[Evaluation], page: Path
) -> None:
    assert "perplexity" not in text_of(page)
    measured = {"base": {"prefill": {"value": 12.34, "n": 9, "low": 3.0, "high": 20.0}}}
    first = replace(evaluations[0], results={**evaluations[0].results, "perplexity": measured})
    text = render_page([first], title="x", command="x", show_harmful=False)
    assert text.count("<span>perplexity</span>") == 1
    assert "<span>12.3</span>" in text
    assert "median perplexity under the base model" in text


def test_budget_and_the_papers_tables(page: Path) -> None:
    text = text_of(page)
    assert "base: 12 of 12 within 400 passes, first: 0 of 12 within 400 passes" in text
    assert "dotted: target loss below 0.01" in text
    assert "the multimodal results (LLaVA-NeXT-Mistral-7B), rows No Attack and PGD" in text
    assert "steps 1000; ours is steps 100" in text


def test_an_evaluation_read_back_is_what_it_was(evaluations: list[Evaluation]) -> None:
    for evaluation in evaluations:
        counts = evaluation.results["counts"]
        assert len(evaluation.judged) == sum(role["answers"] for role in counts.values())
        assert all(one.labels for one in evaluation.judged)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_in_a_browser(browser: Browser, page: Path, width: int, dark: bool) -> None:
    """From disk, asking nothing of the network, no wider than the window, readable."""
    browser.show(page, width=width, dark=dark)
    asked = [url for url in browser.requests if not url.startswith("data:")]
    assert asked == [page.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # The whole of every table can be reached: it fits, or scrolls inside its own frame.
    beyond = """[...document.querySelectorAll("td, th, figure, dd, .answer")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll")
        && e.offsetParent !== null).length"""
    assert browser.evaluate(beyond) == 0
    assert contrast(browser) >= 4.5
    page_is_dark = brightness(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (page_is_dark < 128) is dark


def test_harmful_text_is_hidden(browser: Browser, page: Path) -> None:
    browser.show(page)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    shown = browser.evaluate("document.body.innerText + document.body.textContent")
    assert "redacted:" in shown
    for harmful in ("splurt", "how do i zorch", "to zorch the dog", "il cane", SUFFIX.strip()):
        assert harmful not in shown
    assert browser.evaluate("document.scripts.length") == 0


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


def contrast(browser: Browser) -> float:
    """The least contrast of a text's colour on the page's (WCAG 2.2, 1.4.3: 4.5 is enough)."""
    colours = """[...new Set([...document.querySelectorAll(
        "p, th, .value, .interval, .beside span, .key, dd, dt, .chip, figcaption span")].map(
        e => getComputedStyle(e).color))]"""
    paper = luminance(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    texts = [luminance(colour) for colour in browser.evaluate(colours)]
    return min((max(paper, one) + 0.05) / (min(paper, one) + 0.05) for one in texts)


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
