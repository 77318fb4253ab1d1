"""From scored crops to a patient's number: scorer, aggregation, report and overlays."""
