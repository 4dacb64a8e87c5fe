"""Accuracy, cost, latency and agreement: numbers that may be believed."""
