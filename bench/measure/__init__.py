"""Measures outbox beside what a user could pick instead. Run by bench/run."""
