"""Evaluation: metrics, intervals, thresholds and plots."""
