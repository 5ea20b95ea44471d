"""Captioning: what each image of a COCO folder shows, in words (`python -m mmcb.captioning`)."""
