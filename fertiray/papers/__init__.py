"""The papers: one file each, with the citation, the training protocol and its variants."""

from fertiray.papers.blastocyst_memebg import BLASTOCYST_MEMEBG
from fertiray.papers.embryo_msres import EMBRYO_MSRES
from fertiray.papers.paper import Paper
from fertiray.papers.sperm_effnet_cbam import SPERM_EFFNET_CBAM
from fertiray.papers.sperm_madrnet import SPERM_MADRNET
from fertiray.papers.zona_vgg13 import ZONA_VGG13

PAPERS: dict[str, Paper] = {
    paper.name: paper
    for paper in (
        EMBRYO_MSRES,
        BLASTOCYST_MEMEBG,
        SPERM_EFFNET_CBAM,
        SPERM_MADRNET,
        ZONA_VGG13,
    )
}

__all__ = ["PAPERS", "Paper"]
