"""Makes the two shipped models from nothing: `python -m mmcb.miniature.pretrain`."""
