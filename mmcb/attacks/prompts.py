"""Text attacks, which need no optimisation: each behavior becomes attempts by rewriting alone.

- direct: the request as it is; what an aligned model refuses.
- trigger: the request inside a template with `{prompt}`, as published jailbreak prompts are.
- prefill: the answer is made to begin with the behavior's target.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mmcb.attacks.attempts import AttemptFile, make_attempt
from mmcb.errors import MmcbError
from mmcb.records import Attempt, Behavior
from mmcb.store import record_id

TextAttack = Literal["direct", "trigger", "prefill"]
PLACEHOLDER = "{prompt}"
"""Where a trigger template takes the request."""


def read_templates(path: Path) -> tuple[str, ...]:
    """Trigger templates of a text file: one a line; blank lines and lines with `#` are skipped.

    Raises:
        MmcbError: the file is missing or empty, or a line has no `{prompt}`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MmcbError(
            f"cannot read the trigger templates {path}: {error.strerror}",
            hint="python -m mmcb.miniature",
        ) from error
    templates = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if PLACEHOLDER not in line:
            raise MmcbError(
                f"{path}:{number}: the trigger template has no {PLACEHOLDER}",
                hint=f"write {PLACEHOLDER} where the request belongs",
            )
        templates.append(line.strip())
    if not templates:
        raise MmcbError(f"{path} holds no trigger template", hint="write one a line")
    return tuple(templates)


def text_attempts(
    behaviors: Sequence[Behavior],
    attack: TextAttack,
    *,
    to: AttemptFile,
    templates: Sequence[str] = (),
    every_template: bool = True,
) -> Iterator[Attempt]:
    """Attempts of one text attack on every behavior.

    Args:
        behaviors: the records, in the order of their file.
        attack: which attack.
        to: where the attempts go.
        templates: of the trigger attack.
        every_template: one attempt per behavior and template; else one per behavior, the templates
            taken in turn.

    Raises:
        ValueError: a trigger attack without templates.
    """
    if attack == "trigger" and not templates:
        raise ValueError("the trigger attack needs templates")
    for index, behavior in enumerate(behaviors):
        used: Sequence[str] = (PLACEHOLDER,)
        if attack == "trigger":
            used = templates if every_template else (templates[index % len(templates)],)
        for template in used:
            yield make_attempt(
                behavior,
                attack,
                id_=record_id(behavior.id, attack, to.model, template),
                path=to.path,
                model=to.model,
                # Not str.format: a request or a template may hold other braces.
                prompt=template.replace(PLACEHOLDER, behavior.prompt),
                prefill=behavior.target if attack == "prefill" else "",
                image=to.picture(behavior),
                settings={"template": template} if attack == "trigger" else {},
            )
