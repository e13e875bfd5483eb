"""The dictionary of objects: what the first stage finds where a sound is seen, in K clusters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selection.clusters import clustered

SEEN = 0.05  # l above which a place belongs to the object, in the public code
CROSS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # a place and its four neighbours
STARTS = 10  # of k-means, of which the tightest is taken; ours


def object_mask(location: Tensor) -> Tensor:
    """m (B, h, w) of a map l (B, h, w) in [0, 1]: the places where l > 0.05 and their four neighbours, as 0 and 1."""
    h, w = location.shape[1:]
    seen = F.pad((location > SEEN).to(location), (1, 1, 1, 1))
    return torch.stack([seen[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w] for y, x in CROSS]).amax(dim=0)


def object_features(visual: Tensor, location: Tensor) -> Tensor:
    """o (B, dim), the mean over all places of v(x, y) m(x, y), for maps v (B, dim, h, w) and l (B, h, w).

    The mask m is the public code's, which treats places at the border in a way of its own; where it is empty, l itself
    takes its place, as in the paper's text. (An empty mask would give the zero vector, which has no direction.)
    """
    mask = object_mask(location)
    empty = mask.sum(dim=(1, 2), keepdim=True) == 0
    return (visual * torch.where(empty, location, mask).unsqueeze(1)).mean(dim=(2, 3))


def cluster(features: Tensor, count: int, seed: int) -> Tensor:
    """(N,) the numbers of the clusters of object features (N, dim), by k-means on their directions."""
    directions = F.normalize(features).numpy()
    return torch.from_numpy(clustered(directions, count, seed, STARTS)[1]).long()


def entries(features: Tensor, assigned: Tensor, count: int) -> Tensor:
    """The dictionary D (count, dim): d_k is the mean of the object features (N, dim) that are `assigned` (N,) to k.

    With the assignment held fixed it minimises L_clu = sum_i ||o_i - d_{k(i)}||^2. A cluster without members has zeros.
    """
    sums = features.new_zeros(count, features.shape[1]).index_add(0, assigned, features)
    return sums / assigned.bincount(minlength=count).clamp(min=1).unsqueeze(1)
