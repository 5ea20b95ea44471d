"""`python -m mmcb.evaluation.agree`: how far the judges agree with a person, and each other."""

from __future__ import annotations

from mmcb.cli import run_command
from mmcb.evaluation.config import AgreeConfig


def _run(config: AgreeConfig) -> None:
    import json

    from mmcb.evaluation.labels import read_labels, score_labels
    from mmcb.evaluation.table import print_agreement
    from mmcb.store import write_atomic

    labels = read_labels(config.labels or config.run / "labels.csv")
    table = score_labels(config.run, labels)
    write_atomic(config.run / "agreement.json", json.dumps(table, indent=2) + "\n")
    print_agreement(table)


def main() -> None:
    """Run the command."""
    run_command(
        AgreeConfig,
        _run,
        prog="mmcb evaluation.agree",
        description=(
            "Score the judges of an evaluation against a person's labels: raw agreement and "
            "Cohen's kappa of each pair, with n. Also writes agreement.json."
        ),
    )


if __name__ == "__main__":
    main()
