"""From image files to model inputs: decoding, segmentation, the crop store, datasets, splits."""
