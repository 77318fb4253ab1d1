"""Metrics, intervals and thresholds: how good a model is and how sure a number is."""
