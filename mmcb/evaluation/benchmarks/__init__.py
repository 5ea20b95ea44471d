"""Published benchmarks, read from their own files into behaviors and tasks."""
