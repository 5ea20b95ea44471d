"""`python -m mmcb.attacks.embedding`: attack the base and the defended model with vectors."""

from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.presets import PRESETS
from mmcb.cli import run_command


def main() -> None:
    """Parse the command line and run the attack."""
    run_command(
        EmbeddingConfig,
        _run,
        prog="mmcb attacks.embedding",
        description="Optimise input embeddings behind each request that make a model comply.",
        protocols={name: settings for name, settings in PRESETS.items()},
    )


def _run(config: EmbeddingConfig) -> None:
    from mmcb.attacks.targets import locate_targets

    # Before torch is imported, which takes seconds: a mistake is told at once.
    locate_targets(config)
    from mmcb.attacks.embedding.run import run_embedding

    run_embedding(config)


if __name__ == "__main__":
    main()
