"""The runtime demo: a machine proves itself, is authorized, runs a job, drifts, and is stopped; then the proof."""
