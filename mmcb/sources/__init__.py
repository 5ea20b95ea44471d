"""Other people's data as mmcb's examples: one file for each format, one for what all share."""
