"""Records of a run: metrics, journal, audit log, Prometheus."""
