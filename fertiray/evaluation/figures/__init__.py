"""Figures fit to print: arrays and results in, matplotlib figures with one look out."""
