"""The model of CSOL: where in a frame what is heard is seen, and which of K categories it is.

CSOL: Hu, Wei, Qian, Lin, Song and Wen, "Class-aware Sounding Objects Localization via Audiovisual Correspondence"
(TPAMI 2021), whose first form is DSOL, "Discriminative Sounding Objects Localization via Self-supervised Audiovisual
Matching" (NeurIPS 2020). The two share the network.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from models.encoders import RESNETS, ConvNet, Staged
from models.multimodal import Encoders, build_encoders
from utils.distributed.gather import whole

ENCODERS: dict[str, type[Staged]] = {"convnet": ConvNet, **RESNETS}
EMBEDDING = 128  # numbers in which sound and picture are compared
SHARPNESS = 5.0  # with which w begins


class Localiser(Encoders):
    """Two encoders, the map of where the sound is seen, a classifier of each modality, and a dictionary of objects.

    Write v(x, y) for the visual encoder's map (dim channels, h x w places) and a for the largest value over time and
    frequency of the audio encoder's. With two small networks h_v (of each place) and h_a, and a learned number w:

        l(x, y)   = sigmoid( w <h_v(v)(x, y) / |.|, h_a(a) / |.|> )          where in the frame the sound is seen
        o_k(x, y) = g <v(x, y), d_k>                                         what is where, d_k the dictionary
        s_k(x, y) = o_k(x, y) l(x, y)                                        silent-area suppression
        P_k(x, y) = softmax_k( c s_k(x, y) )                                 c at inference, 3 in the public code

    `dictionary` (K, dim) is made by the first stage and held fixed in the second; the number g is learned there. The
    paper's o_k also has a bias; it is the same in all k, so that no softmax over k and no gradient can tell it from 0,
    and is left out. `heads` are linear classifiers of the K clusters, on a and on the mean of v.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], clusters: int):
        super().__init__(encoders)
        self.clusters = clusters
        audio, visual = self.dims["audio"], self.dims["visual"]
        self.embed_audio = nn.Sequential(nn.Linear(audio, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.embed_visual = nn.Sequential(
            nn.Conv2d(visual, EMBEDDING, 1), nn.ReLU(), nn.Conv2d(EMBEDDING, EMBEDDING, 1)
        )
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.heads = nn.ModuleDict({name: nn.Linear(dim, clusters) for name, dim in self.dims.items()})
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("dictionary", torch.zeros(clusters, visual))

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`audio` (B, dim) and, of each of the frames that there are (`visual`, `other`), the maps (B, dim, h, w).

        The frames are encoded together. On several processes these are the features of the whole batch, as
        `MultimodalModel.encode` has them.
        """
        frames = [name for name in inputs if name != "audio"]
        maps = self.encoders["visual"].maps(torch.cat([inputs[name] for name in frames]))
        own = {"audio": self.encoders["audio"].maps(inputs["audio"]).amax(dim=(2, 3))}
        own |= dict(zip(frames, maps.chunk(len(frames)), strict=True))
        gathered = whole({name: x.flatten(1) for name, x in own.items()}, inputs)
        return {name: x.unflatten(1, own[name].shape[1:]) for name, x in gathered.items()}

    def location(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The logits (B, h, w) of the map l, for `audio` (B, dim) and `visual` (B, dim, h, w)."""
        heard, seen = F.normalize(self.embed_audio(audio), dim=1), F.normalize(self.embed_visual(visual), dim=1)
        return self.sharpness * torch.einsum("bc,bchw->bhw", heard, seen)

    def class_maps(self, visual: Tensor) -> Tensor:
        """o (B, K, h, w) of `visual` (B, dim, h, w)."""
        return self.gain * torch.einsum("bchw,kc->bkhw", visual, self.dictionary)

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, K) of each modality's classifier, of features as `encode` gives them."""
        pooled = {"audio": features["audio"], "visual": features["visual"].mean(dim=(2, 3))}
        return {name: head(pooled[name]) for name, head in self.heads.items()}


def suppressed(objects: Tensor, location: Tensor) -> Tensor:
    """s (B, K, h, w): class maps o (B, K, h, w) where the sound is seen, by the logits (B, h, w) of the map l."""
    return objects * location.sigmoid().unsqueeze(1)


def makers_of(encoder: str) -> dict[str, Callable[[], nn.Module]]:
    """What makes the encoders: of pictures by their three colours, maps twice as fine as usual, and of spectrograms."""
    made = ENCODERS[encoder]
    return {"audio": lambda: made(1), "visual": lambda: made(3).keep_size()}


def build_localiser(encoder: str, clusters: int, seed: int) -> Localiser:
    """The model of a seed, from scratch."""
    return Localiser(build_encoders(makers_of(encoder), seed), clusters)
