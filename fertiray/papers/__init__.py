"""The papers: one file each, with the citation, the training protocol and its variants."""

from fertiray.papers.paper import Paper
from fertiray.papers.sperm_effnet_cbam import SPERM_EFFNET_CBAM
from fertiray.papers.zona_vgg13 import ZONA_VGG13

PAPERS: dict[str, Paper] = {paper.name: paper for paper in (SPERM_EFFNET_CBAM, ZONA_VGG13)}

__all__ = ["PAPERS", "Paper"]
