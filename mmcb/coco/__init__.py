"""COCO on disk: getting it, and what is in it (`python -m mmcb.coco.download`)."""
