"""What a run records: metrics, journal, audit log, Prometheus."""
