"""Spermatozoa that can bind the zona pellucida, and a man's percentage of them.

The small CNN that the paper compares with: two convolutions and one max-pool, batch 6, 50 epochs,
SGD at 0.01, cross-entropy, horizontal flip and random resizing of grey 128 x 128 crops. Left open
by the paper and settled here: momentum 0.9, and a resize of up to 10% either way. Small rotations,
shifts and changes of contrast are added: they are the errors that segmentation and staining make.
"""

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, TrainConfig

BASIC_CNN = TrainConfig(
    model="basic_cnn",
    # The paper's crops hold little beside the head: 1.4 of the crop store's 2 head lengths.
    preprocessing=Preprocessing(size=128, colour="grey", window=0.7, mean=(0.5,), std=(0.25,)),
    epochs=50,
    batch_size=6,
    optimizer="sgd",
    lr=0.01,
    augmentation=Augmentation(
        rotation=8, scale=0.1, shift=0.03, hflip=True, gain=0.2, offset=0.2, noise=0.05
    ),
)

ZONA_VGG13 = Paper(
    name="zona_vgg13",
    citation=(
        "Leung ETY, Mei X, Lee BKM, Lam KKW, Lee CL, Li RHW, Ng EHY, Yeung WSB, Yu L, Chiu PCN."
        " Automatic identification of human spermatozoa with zona pellucida-binding capability"
        " using deep learning."
    ),
    task="zona",
    classes=("unbound", "bound"),
    positive=("bound",),
    models={"basic_cnn": BASIC_CNN},
)
