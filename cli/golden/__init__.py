"""Comparison of the project's prompts with golden prompts of the published systems, section by section."""
