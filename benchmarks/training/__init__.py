"""What rerouting costs: ours against the published recipe, on the same records and shapes."""
