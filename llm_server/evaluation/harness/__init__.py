"""Asks many questions of a running gateway, as any client would, and scores, keeps and shows what comes back.

`Example` is one question; `GatewayClient` asks it; `run` asks many at once and keeps a `Record` of each, so that a run
that was cut short goes on where it stopped; `bootstrap`, `tables` and `html_report` say what came of it. Nothing here
loads a model.
"""
