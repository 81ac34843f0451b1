"""Comparison of CoLLaVO and MoAI with golden vectors of the published implementations, tensor by tensor."""
