"""A judge that asks a model: a prompt template, a parser, a model's name.

The shipped templates are written for mmcb. The published classifiers were trained on prompts of
their own, which are not reproduced here: to use one as published, put its prompt into a jinja2
file and name that, `--judges harmbench:FILE.j2`. A template may use `request`, `response`,
`context` (None where there is none) and `prompt` (the request with its passage).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template, TemplateError

from mmcb.errors import MmcbError
from mmcb.evaluation.judges import Ruling, Rulings, Sample
from mmcb.evaluation.judges.parsers import PARSERS
from mmcb.evaluation.judges.specification import JudgeSpec, Prompted
from mmcb.generation.protocol import Completion, Request, Sampling, TextGenerator
from mmcb.records import Message

MAX_RESPONSE_CHARACTERS = 2048
"""Judges see the beginning of longer answers. HarmBench clips to 512 tokens of its judge; an
engine's tokenizer is not at hand here, and a token of English is about four characters."""


class PromptedJudge:
    """Asks a model about each sample, greedily.

    Args:
        spec: which judge, template and model.
        row: the judge's row in the table.
        make_generator: makes the model; called at the first sample, and once.
    """

    def __init__(
        self, spec: JudgeSpec, row: Prompted, make_generator: Callable[[str], TextGenerator]
    ) -> None:
        self.name = str(spec)
        self._row = row
        self._model = spec.model or row.model
        self._make_generator = make_generator
        self._generator: TextGenerator | None = None
        self._template = None if row.template is None else read_template(spec.template_file(row))

    def rule(self, samples: Sequence[Sample]) -> Iterator[Rulings]:
        """One ruling a sample; None for an answer that cannot be read, or was not given.

        Raises:
            MmcbError: the model cannot be had, or the template fails.
        """
        if not samples:
            return
        requests = [self._request(str(k), sample) for k, sample in enumerate(samples)]
        if self._generator is None:
            assert self._model is not None
            self._generator = self._make_generator(self._model)
        sampling = Sampling(max_new_tokens=self._row.max_new_tokens)
        for batch in self._generator.generate(requests, sampling):
            yield [(int(completion.id), self._read(completion)) for completion in batch]

    def _read(self, completion: Completion) -> Ruling:
        if completion.finish_reason == "error":
            return Ruling(None, reason="the judge gave no answer")
        return PARSERS[self._row.parser](completion.text)

    def _request(self, name: str, sample: Sample) -> Request:
        response = sample.response[:MAX_RESPONSE_CHARACTERS]
        if self._template is None:
            turns = (
                Message(role="user", content=sample.prompt),
                Message(role="assistant", content=response),
            )
            return Request(id=name, messages=turns, layout=self._row.layout)
        try:
            text = self._template.render(
                request=sample.request,
                prompt=sample.prompt,
                response=response,
                context=sample.context,
            )
        except TemplateError as error:
            raise MmcbError(
                f"the prompt of judge {self.name}: {error}",
                hint="it may use request, prompt, response and context",
            ) from None
        message = Message(role="user", content=text)
        return Request(id=name, messages=(message,), layout=self._row.layout)


def read_template(path: Path) -> Template:
    """A judge's prompt.

    Raises:
        MmcbError: it is not there, or not jinja2 (with the line).
    """
    # No autoescape: prompts are plain text for a model, not HTML.
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmcbError(f"judge prompt {path}: {error.strerror or error}") from None
    except (TemplateError, UnicodeDecodeError) as error:
        line = f":{error.lineno}" if hasattr(error, "lineno") else ""
        raise MmcbError(f"{path}{line}: not a judge's prompt: {error}") from None
