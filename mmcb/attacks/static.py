"""Attempts from files that others made: test cases, translations, conversations.

Formats: HarmBench's test cases (a JSON object, behavior id -> list of prompts, or of [picture,
prompt]; arXiv 2402.04249), JailbreakBench's artifacts (a JSON object with `jailbreaks`; arXiv
2404.01318), translations (behavior id -> language -> prompt), and scripts of several turns (a list
of conversations with `{prompt}` where the request goes; what the assistant says in them is fixed).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mmcb.attacks.attempts import AttemptFile, make_attempt
from mmcb.attacks.prompts import PLACEHOLDER
from mmcb.errors import MmcbError
from mmcb.records import AttackName, Attempt, Behavior, Message, Scalar
from mmcb.store import record_id

_Cases = TypeAdapter(dict[str, list[str | tuple[str, str]]])
_Translations = TypeAdapter(dict[str, dict[str, str]])
_Scripts = TypeAdapter(list[list[Message]])


@dataclass(frozen=True, slots=True)
class Case:
    """One test case: what is asked and, where the attack made one, the picture shown with it."""

    prompt: str
    picture: Path | None = None


def read_cases(path: Path) -> dict[str, list[Case]]:
    """Test cases by behavior id, from HarmBench's files or a JailbreakBench artifact.

    Of an artifact, behaviors are known by their name (`behavior`) and by the id that `mmcb
    evaluation benchmarks` gives them, which has their number; those for which no prompt was found
    are left out. Pictures are looked for beside the file, then from
    the working directory.

    Raises:
        MmcbError: the file is missing or in neither format, or a picture is not there.
    """
    data = _json(path)
    if isinstance(data, dict) and isinstance(data.get("jailbreaks"), list):
        return _artifact(path, data["jailbreaks"])
    cases = _validated(_Cases, data, path, "neither HarmBench's test cases nor an artifact")
    return {name: [_case(path, name, one) for one in made] for name, made in cases.items()}


def read_translations(path: Path) -> dict[str, dict[str, str]]:
    """Prompts by behavior id and language.

    Raises:
        MmcbError: the file is missing, or no object of objects of texts.
    """
    return _validated(
        _Translations, _json(path), path, "no translations (behavior id -> language -> prompt)"
    )


def read_scripts(path: Path) -> list[tuple[Message, ...]]:
    """Conversations, each of which ends with the user and holds `{prompt}` somewhere.

    Raises:
        MmcbError: the file is missing or in another form, or a script has no `{prompt}` or ends
            with the assistant.
    """
    scripts = _validated(_Scripts, _json(path), path, "no list of conversations")
    for number, script in enumerate(scripts, start=1):
        if not script or script[-1].role != "user":
            raise MmcbError(f"{path}: conversation {number} does not end with the user")
        if not any(PLACEHOLDER in message.content for message in script):
            raise MmcbError(
                f"{path}: conversation {number} has no {PLACEHOLDER}",
                hint=f"write {PLACEHOLDER} where the request belongs",
            )
    if not scripts:
        raise MmcbError(f"{path} holds no conversation")
    return [tuple(script) for script in scripts]


def case_attempts(
    behaviors: Sequence[Behavior],
    cases: Mapping[str, Sequence[Case]],
    *,
    name: str,
    to: AttemptFile,
) -> Iterator[Attempt]:
    """An attempt per behavior and test case, with its picture, else the behavior's own.

    `name` says which file the cases are from.
    """
    for behavior in behaviors:
        for number, case in enumerate(cases.get(behavior.id, ())):
            yield _attempt(
                behavior,
                "static",
                (Message(role="user", content=case.prompt),),
                to=to,
                picture=case.picture,
                settings={"cases": name, "case": number},
            )


def translated_attempts(
    behaviors: Sequence[Behavior],
    translations: Mapping[str, Mapping[str, str]],
    *,
    to: AttemptFile,
) -> Iterator[Attempt]:
    """An attempt per behavior and language."""
    for behavior in behaviors:
        for language, prompt in translations.get(behavior.id, {}).items():
            yield _attempt(
                behavior,
                "translated",
                (Message(role="user", content=prompt),),
                to=to,
                settings={"language": language},
            )


def multi_turn_attempts(
    behaviors: Sequence[Behavior], scripts: Sequence[Sequence[Message]], *, to: AttemptFile
) -> Iterator[Attempt]:
    """An attempt per behavior and script."""
    for behavior in behaviors:
        for number, script in enumerate(scripts):
            # Not str.format: a request or a script may hold other braces.
            filled = tuple(
                Message(role=one.role, content=one.content.replace(PLACEHOLDER, behavior.prompt))
                for one in script
            )
            yield _attempt(
                behavior,
                "multi_turn",
                filled,
                to=to,
                settings={"script": number, "turns": len(script)},
            )


def repeated(attempts: Sequence[Attempt], samples: int) -> Iterator[Attempt]:
    """Every attempt `samples` times, as attempts of their own that are sampled apart."""
    for attempt in attempts:
        yield attempt
        for sample in range(1, samples):
            yield attempt.model_copy(
                update={
                    "id": record_id(attempt.id, "sample", sample),
                    "settings": {**attempt.settings, "sample": sample},
                }
            )


def _attempt(
    behavior: Behavior,
    attack: AttackName,
    messages: tuple[Message, ...],
    *,
    to: AttemptFile,
    settings: dict[str, Scalar],
    picture: Path | None = None,
) -> Attempt:
    words = [text for message in messages for text in (message.role, message.content)]
    return make_attempt(
        behavior,
        attack,
        id_=record_id(behavior.id, attack, to.model, json.dumps(settings, sort_keys=True), *words),
        path=to.path,
        model=to.model,
        prompt=messages[-1].content,
        history=messages[:-1],
        image=picture or to.picture(behavior),
        settings=settings,
    )


def _case(path: Path, behavior: str, made: str | tuple[str, str]) -> Case:
    if isinstance(made, str):
        return Case(made)
    picture, prompt = made
    for file in (path.parent / picture, Path(picture)):
        if file.is_file():
            return Case(prompt, file)
    raise MmcbError(
        f"{path}: {behavior}: there is no picture {picture}",
        hint=f"pictures are looked for from {path.parent} and from the working directory",
    )


def _artifact(path: Path, jailbreaks: Sequence[Any]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for number, one in enumerate(jailbreaks):
        if not isinstance(one, dict) or "prompt" not in one:
            raise MmcbError(f"{path}: jailbreak {number} of the artifact has no prompt")
        if one["prompt"] is not None:
            index = one.get("index", number)
            for name in (str(one.get("behavior") or index), f"jailbreakbench-{index}"):
                found.setdefault(name, []).append(Case(str(one["prompt"])))
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MmcbError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise MmcbError(f"{path}: not JSON: {error}") from None


def _validated(adapter: TypeAdapter[Any], data: Any, path: Path, otherwise: str) -> Any:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise MmcbError(
            f"{path}: {otherwise}{f', at {where}' if where else ''}",
            hint="docs/add-an-attack.md describes the formats",
        ) from None
