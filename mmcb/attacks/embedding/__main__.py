"""`python -m mmcb.attacks.embedding`: attack the base and the defended model with vectors."""

from mmcb.attacks.command import run_attack
from mmcb.attacks.embedding.config import EmbeddingConfig
from mmcb.attacks.embedding.presets import PRESETS
from mmcb.attacks.targets import locate_targets


def main() -> None:
    """Parse the command line and run the attack."""
    run_attack(
        EmbeddingConfig,
        "mmcb.attacks.embedding.run:run_embedding",
        description="Optimise input embeddings behind each request that make a model comply.",
        check=locate_targets,
        presets={str(name): settings for name, settings in PRESETS.items()},
    )


if __name__ == "__main__":
    main()
