"""Where in a picture a network looks: heatmaps, whether they can be trusted, what they show."""
