"""What a process tells about itself: structured logs, Prometheus metrics, OpenTelemetry spans."""
