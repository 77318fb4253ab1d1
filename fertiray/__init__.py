"""FertiRay: train, compare and bulk-score the models of reproductive medicine."""

__version__ = "0.1.0"
