"""The dashboards: their panels once, drawn by Grafana, or on a page of our own without it."""
