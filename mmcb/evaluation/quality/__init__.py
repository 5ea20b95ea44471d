"""Open questions whose answers a judge grades: MT-Bench and LLaVA-Bench."""
