"""The published benchmarks: how each asks, how its answers are read, and what both published systems scored.

One file a benchmark or family; `registry` lists them. Prompt forms and answer parsers are those of the evaluation code
of CoLLaVO and MoAI; where that code leaves something open, the benchmark's own rule. Data is never fetched: a benchmark
whose files are absent says which files it wants, and where they come from.
"""
