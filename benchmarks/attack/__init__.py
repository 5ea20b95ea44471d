"""What a step of an image attack takes: ours against a plain loop, and one picture for many."""
