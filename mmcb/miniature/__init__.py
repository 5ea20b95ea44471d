"""The miniature world: scenes, tasks and two small trained models that need no download."""
