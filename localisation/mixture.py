"""The second stage: clips in which some of the visible objects sound. Which, by the first stage's dictionary."""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from localisation import metrics
from localisation.model import suppressed
from localisation.stage import Located, Stage, defined, objects_of, probabilities, sum_by_category, told_apart
from models.multimodal import place
from utils.distributed.gather import whole
from utils.errors import CombinationError, DamageError, RunError
from utils.numbers import not_negative, positive, positive_float
from utils.runs.checkpoint import is_checkpoint, load_model, read_tensors

SIDES = 2  # of the parts by which a foreign frame is compared: a mosaic has two by two


class Mixture(Stage):
    """From the weights of a run of the first stage, whose frozen audio encoder F and classifier say what is heard.

        p^v     = softmax_k( mean_xy s_k )                  s_k of the model, or o_k without suppression
        p^a     = softmax_k( F.head_a(a) / T )
        L_cat   = 1/K KL( p^a || p^v )                      the category-level consistency
        L_loc   = 1/2 [ BCE(max l, 1) + mean over the 2 x 2 parts BCE(max l', 0) ]
        L       = category_weight L_cat + location_weight L_loc

    with l of a clip's own frame and l' of that of another video. The mean over classes in L_cat is that of the public
    code's KLDivLoss, which so has 1/K of the divergence that the paper writes; lambda is its location_weight of 0.5.
    """

    name = "mixture"

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--solo", metavar="RUN",
            help="folder of a finished train-solo; by default <out>/<dataset>/solo/default/seed<k> of the same seed",
        )  # fmt: skip
        group.add_argument(
            "--start_from", metavar="RUN",
            help="folder of a finished train-mix, whose weights take the place of those of --solo: from synthetic "
            "mixtures to real duets, say; what is heard is still what --solo says",
        )  # fmt: skip
        group.add_argument("--epochs", type=positive, default=5, help="passes over the mixed clips")
        group.add_argument("--temperature", type=positive_float, default=1.0, help="T")
        group.add_argument("--category_weight", type=not_negative, default=1.0, help="of L_cat; 0: an ablation")
        group.add_argument("--location_weight", type=not_negative, default=0.5, help="of L_loc, lambda")
        group.add_argument("--no_suppression", action="store_true", help="o in the place of s: an ablation")

    @staticmethod
    def epochs(args) -> int:
        """How many passes there are."""
        return args.epochs

    def __init__(self, args, model, categories):
        super().__init__(args, model, categories)
        if not args.category_weight and not args.location_weight:
            raise CombinationError("--category_weight 0 and --location_weight 0 leave nothing to learn: raise one")
        state = self._load("solo")
        self.matching = state["method"]["matching"]
        if not model.dictionary.any():
            raise CombinationError(f"--solo {args.solo} has one round and so no dictionary: train it for --rounds 2")
        self.encoder, self.head = copy.deepcopy((model.encoders["audio"], model.heads["audio"]))
        if args.start_from:
            self._load("start_from")
        for part in (self.encoder, self.head):
            part.requires_grad_(False).eval()
        self._heard = torch.zeros(0)  # p^a (B, K) of this step

    def _load(self, flag: str) -> dict:
        """Give the model the weights of the run that a flag names; the content of its checkpoint.

        Raises:
            RunError: if it is missing, damaged, not finished, or another stage's, or of other categories.
        """
        folder, stage = Path(getattr(self.args, flag)), {"solo": "solo", "start_from": "mixture"}[flag]
        what, path = f"--{flag} {folder}", folder / "last.pt"
        if not path.exists():
            command = {"solo": "train-solo", "start_from": "train-mix"}[flag]
            raise RunError(f"{what} has no last.pt: give the folder of a finished {command}, or run that first")
        try:
            state, sha256 = read_tensors(path, "")
        except DamageError as error:
            damage = f"its last.pt is damaged ({error.reason})"
            raise RunError(f"{what} cannot be used: {damage}; remove the folder and train it again") from None
        if not is_checkpoint(state):
            raise RunError(f"{what}: its last.pt is no checkpoint of this repository")
        if state["args"].get("method") != stage or state["classes"] != self.categories:
            held = " on ".join(str(state["args"].get(key)) for key in ("method", "dataset"))
            wanted = f"{stage} on {self.args.dataset}, or on data of the same categories"
            raise RunError(f"{what} holds a run of {held}: give one of {wanted}")
        if not (folder / "done").exists():
            raise RunError(f"{what} is not finished: go on with it by --resume")
        load_model(self.model, state, path)
        self.model.started_from[flag] = sha256
        return state

    def on_fit_start(self, run) -> None:
        for part in (self.encoder, self.head):
            place(part, next(self.model.parameters()))

    @torch.no_grad()
    def hear(self, inputs) -> Tensor:
        """p^a (B, K) of the whole batch."""
        logits = self.head(self.encoder.maps(inputs["audio"]).amax(dim=(2, 3)))
        return (whole({"audio": logits}, inputs)["audio"] / self.args.temperature).softmax(dim=1)

    def forward(self, batch) -> Located:
        features = self.model.encode(batch.inputs)
        self._heard = self.hear(batch.inputs)
        return Located(features, batch.target, self.locate(features))

    def losses(self, output) -> dict[str, Tensor]:
        objects = self.model.class_maps(output.features["visual"])
        if not self.args.no_suppression:
            objects = suppressed(objects, output.location["visual"])
        seen = objects.mean(dim=(2, 3)).log_softmax(dim=1)
        category = F.kl_div(seen, self._heard, reduction="batchmean") / self.model.clusters
        parts = F.adaptive_max_pool2d(output.location["other"], SIDES)[..., None, None]
        location = told_apart(output.location["visual"], parts.flatten(1, 2))
        terms = ((self.args.category_weight, category), (self.args.location_weight, location))
        # Without its term g has no gradient: a zero one would leave it to Adam's weight decay, which takes it to 0.
        total = sum(weight * term for weight, term in terms if weight)
        return {"loss": total, "loss_category": category, "loss_location": location}

    def evaluate(self, run, data) -> dict[str, float]:
        """The metrics of P on mixed clips, and `teacher_recall`, that of p^a; {} where no category is known."""
        if self.matching is None:
            return {}
        seen = self.look(run, data, self._maps)
        objects, size = objects_of(data), (self.args.image_size,) * 2
        maps = metrics.class_maps(seen["maps"], np.array(self.matching), len(self.categories))
        heard = sum_by_category(seen["heard"], self.matching, len(self.categories))
        found = metrics.evaluate(maps, objects, size, data.ratio)
        return defined(found | {"teacher_recall": metrics.recall(heard, objects)})

    def _maps(self, features, inputs) -> dict[str, Tensor]:
        maps = probabilities(self.model, features, suppression=not self.args.no_suppression)
        return {"maps": maps, "heard": self.hear(inputs)}
