"""What the experts report, as lines and tables for people and as plain values for machines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from google.protobuf.duration_pb2 import Duration
from rich.markup import escape
from rich.table import Table

from polysight.gateway.v1 import polysight_pb2 as gateway_pb2

EXPERT_NAMES = {
    gateway_pb2.EXPERT_PANOPTIC: "panoptic",
    gateway_pb2.EXPERT_DETECTION: "detection",
    gateway_pb2.EXPERT_SCENE_GRAPH: "scene_graph",
    gateway_pb2.EXPERT_OCR: "ocr",
}
EXPERTS_BY_NAME = {name: number for number, name in EXPERT_NAMES.items()}
_MARKS = {
    gateway_pb2.OUTCOME_OK: "[green]✓[/]",
    gateway_pb2.OUTCOME_FAILED: "[red]✗[/]",
    gateway_pb2.OUTCOME_TIMED_OUT: "[yellow]⧖[/]",
    gateway_pb2.OUTCOME_SKIPPED: "[dim]–[/]",
}


def milliseconds(duration: Duration) -> float:
    """A protobuf Duration in milliseconds."""
    return duration.seconds * 1e3 + duration.nanos / 1e6


def status_name(report: gateway_pb2.ExpertReport) -> str:
    """`ok`, `failed`, `timed_out` or `skipped`."""
    return gateway_pb2.Outcome.Name(report.outcome).removeprefix("OUTCOME_").lower()


def summary(report: gateway_pb2.ExpertReport) -> str:
    """What an expert saw, in a few words; of one that failed, why."""
    kind = report.WhichOneof("result")
    if kind == "panoptic":
        names = [segment.label for segment in report.panoptic.segments if segment.is_thing]
        return _counted(names) or "no things"
    if kind == "detection":
        return _counted([detection.label for detection in report.detection.detections]) or "no objects"
    if kind == "scene_graph":
        graph = report.scene_graph
        triples = [
            f"{graph.objects[edge.subject_index].label} {edge.predicate} {graph.objects[edge.object_index].label}"
            for edge in graph.relations
        ]
        return _counted(triples) or "no relations"
    if kind == "ocr":
        return ", ".join(f"“{line.text}”" for line in report.ocr.lines) or "no text"
    return str(report.status.message)


def line(report: gateway_pb2.ExpertReport) -> str:
    """One line for the terminal, in rich's markup."""
    name = EXPERT_NAMES[report.expert]
    told = escape(summary(report))
    took = "" if report.outcome == gateway_pb2.OUTCOME_SKIPPED else f"{milliseconds(report.elapsed):6.0f} ms"
    return f"{_MARKS[report.outcome]} [bold]{name:<11}[/] {took:>9}  {told}"


def as_dict(report: gateway_pb2.ExpertReport) -> dict[str, Any]:
    """The report without masks, for `--json`."""
    told: dict[str, Any] = {
        "name": EXPERT_NAMES[report.expert],
        "status": status_name(report),
        "ms": round(milliseconds(report.elapsed), 1),
        "summary": summary(report),
    }
    if report.status.code:
        told["error"] = report.status.message
    return told


def timing_table(reports: list[gateway_pb2.ExpertReport], done: gateway_pb2.AnswerDone | None) -> Table:
    """Where the time of a request went, hop by hop."""
    table = Table(
        "hop", "total ms", "queue", "preprocess", "inference", "postprocess", "batch", title="timings"
    )
    for report in reports:
        kind = report.WhichOneof("result")
        cells = [EXPERT_NAMES[report.expert], f"{milliseconds(report.elapsed):.0f}"]
        if kind is not None:
            timings = getattr(report, kind).timings
            cells += [
                f"{milliseconds(timings.queue):.0f}",
                f"{milliseconds(timings.preprocess):.0f}",
                f"{milliseconds(timings.inference):.0f}",
                f"{milliseconds(timings.postprocess):.0f}",
                str(timings.batch_size),
            ]
        table.add_row(*cells)
    if done is not None:
        timings = done.timings
        generation = timings.generation
        table.add_section()
        table.add_row("all experts", f"{milliseconds(timings.perceive):.0f}")
        table.add_row("verbalizer", f"{milliseconds(timings.verbalize):.1f}")
        table.add_row(
            "llm_server",
            f"{sum(map(milliseconds, (generation.queue, generation.prefill, generation.decode))):.0f}",
            f"{milliseconds(generation.queue):.0f}",
            f"{milliseconds(generation.prefill):.0f}",
            f"{milliseconds(generation.decode):.0f}",
        )
        table.add_row("first token after", f"{milliseconds(timings.time_to_first_token):.0f}")
        table.add_row("[bold]whole answer[/]", f"[bold]{milliseconds(timings.total):.0f}[/]")
    return table


def _counted(names: list[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
