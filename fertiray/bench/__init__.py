"""Measurements: each explains what it measures, measures it and ends in one JSON document."""
