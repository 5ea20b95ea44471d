"""`mmcb X ...` is `python -m mmcb.X ...`: a table of commands, imported only when asked."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from mmcb import __version__

COMMANDS = {
    "coco.download": "Download COCO's images and annotations, check them and unpack them.",
    "captioning": "Caption the images of a COCO folder, with a model or with COCO's own captions.",
    "merge": "Join the shards of a captioning run, after a look whether they make a whole.",
    "synthesis": "Make the circuit-breaker set and the retain set from captioned images.",
    "retain": "Mix a retain set from chats, instructions, pictures, and the model's own answers.",
    "training": "Train a representation-rerouting adapter on both sets.",
    "attacks.image_hijack": "Optimise images that make a model comply with harmful requests (PGD).",
    "attacks.embedding": "Optimise input embeddings that make a model comply.",
    "attacks.gcg": "Search for tokens behind a request that make a model comply (GCG).",
    "attacks.steering": "Find the refusal direction, for attempts that run without it.",
    "attacks.check": "Check that image attacks are strong, and whether gradients look masked.",
    "evaluation": "Put attacks and tasks to models, judge the answers, write the report.",
    "evaluation.sample": "Draw answers of an evaluation for a person to label.",
    "evaluation.agree": "Score the judges against a person's labels, and against each other.",
    "evaluation.benchmarks": "Read a published benchmark's own files into behaviors and tasks.",
    "evaluation.lm_eval": "Run lm-eval's tasks (MMLU, ARC, MMMU...) on base and defended model.",
    "evaluation.quality": "Answer MT-Bench or LLaVA-Bench, and have a judge model grade it.",
    "suite": "Run every attack of a suite on base and defended model, judge them, report.",
    "runs.ls": "List the runs on disk: kind, model, state, date, headline number.",
    "runs.show": "Tell everything about one run: how it was made, its settings, its results.",
    "runs.compare": "Put evaluations of any number of models side by side, also as a page.",
    "miniature": "Write the miniature world: a COCO folder of drawn scenes with its test sets.",
    "demo": "Run the whole pipeline on the miniature world, before and after the defence.",
}


def main() -> None:
    """Run the command that is named first on the command line."""
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_listing() + "\n")
    elif args[0] == "--version":
        sys.stdout.write(f"mmcb {__version__}\n")
    elif (command := ".".join(args[:2])) in COMMANDS:  # mmcb coco download
        run(command, args[2:])
    elif args[0] in COMMANDS:
        run(args[0], args[1:])
    else:
        sys.stderr.write(_unknown(args[0]))
        sys.exit(2)


def run(command: str, args: Sequence[str]) -> None:
    """Run a command of the table as `python -m mmcb.<command>` would."""
    module = f"mmcb.{command}"
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        module += ".__main__"
    sys.argv = [f"mmcb {command}", *args]
    importlib.import_module(module).main()


def _listing() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {sentence}" for name, sentence in COMMANDS.items()]
    return "\n".join(
        [
            "mmcb: multimodal circuit breakers.",
            "",
            "usage: mmcb COMMAND [--help] [flags]    (the same as python -m mmcb.COMMAND)",
            "",
            *lines,
            "",
            "A space does for the dot: `mmcb coco download`.",
            "`mmcb COMMAND --help` explains a command's flags. New here? `mmcb demo` shows it all.",
        ]
    )


def _unknown(name: str) -> str:
    group = [command for command in COMMANDS if command.startswith(f"{name}.")]
    close = difflib.get_close_matches(name.replace("-", "_"), COMMANDS, n=1, cutoff=0.5)
    tails = {command.rpartition(".")[2]: command for command in COMMANDS}
    close = close or [tails[tail] for tail in difflib.get_close_matches(name, tails, n=1)]
    meant = " or ".join(f"`mmcb {command}`" for command in group or close)
    hint = f"did you mean {meant}?" if meant else "`mmcb` lists the commands"
    return f"error: unknown command {name!r}\nhint: {hint}\n"


if __name__ == "__main__":
    main()
