"""The first stage: clips of one sound. Where it is seen, then what is seen there, in turns."""

import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from dataset.loader import mix
from localisation.dictionary import cluster, entries, object_features
from localisation.metrics import evaluate_solo, match
from localisation.stage import Located, Stage, defined, objects_of, told_apart
from utils.errors import CombinationError
from utils.numbers import positive, positive_float


class Solo(Stage):
    """Rounds of passes over the solo clips; a pass is an epoch of the loop. The first round is its pass (i) alone.

    (i)  location: L_loc = BCE( max_xy l , y ), y = 1 for a clip's own frame and 0 for one of another video, which may
         show the same category, since no label is used to avoid it. All weights but the two classifiers learn.
    (ii) Object features o_i (localisation/dictionary.py) are clustered by their directions; the clusters are the
         targets y* of `passes` passes of classification, L_cls = CE(head_a(a), y*) + CE(head_v(mean v), y*), by both
         encoders and by classifiers that each round makes anew and trains at a rate of their own. Then the dictionary
         is made of object features of the encoders as they are now, with the clusters of this round.

    The classifiers' Adam is the main one's with their rate and nothing that it remembers of the round before: Adam
    treats every weight by itself, so that this is the same as one of their own.
    """

    name = "solo"

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--rounds", type=positive, default=15, help="passes of location, the public code's epochs")
        group.add_argument("--passes", type=positive, default=3, help="of classification in a round")
        group.add_argument("--head_lr", type=positive_float, default=1e-3, help="learning rate of the classifiers")

    @staticmethod
    def epochs(args) -> int:
        """How many passes all rounds have."""
        return args.rounds + args.passes * (args.rounds - 1)

    def __init__(self, args, model, categories):
        super().__init__(args, model, categories)
        self.assigned = torch.zeros(0, dtype=torch.long)  # (N,) the clusters of the clips; none in the first round

    def place_of(self, epoch: int) -> int:
        """The place of a pass in its round: 0 is that of location, the others are those of classification."""
        return 0 if epoch == 0 else (epoch - 1) % (1 + self.args.passes)

    def ends_round(self, epoch: int) -> bool:
        """Whether a pass is the last one of its round."""
        return epoch == 0 or self.place_of(epoch) == self.args.passes

    def on_fit_start(self, run) -> None:
        if len(run.train) < self.model.clusters:
            raise CombinationError(f"{len(run.train)} solo clips make no {self.model.clusters} --clusters")

    def on_epoch_start(self, run) -> None:
        if self.place_of(run.epoch) == 1:
            self._renew_heads(run)

    def _renew_heads(self, run) -> None:
        """Begin with classifiers of N(0, 0.01) and no bias, of which the optimizer knows nothing."""
        generator = torch.Generator().manual_seed(mix(self.args.seed, run.epoch, -2))
        with torch.no_grad():
            for head in self.model.heads.values():
                head.weight.copy_(0.01 * torch.randn(head.weight.shape, generator=generator))
                head.bias.zero_()
                for parameter in head.parameters():
                    run.optimizer.state.pop(parameter, None)

    def train_data(self, run):
        return run.train.clips if self.place_of(run.epoch) else run.train

    def forward(self, batch) -> Located:
        features = self.model.encode(batch.inputs)
        if "other" in features:
            return Located(features, batch.target, self.locate(features))
        return Located(features, self.assigned[batch.index], logits=self.model.classify(features))

    def losses(self, output) -> dict[str, Tensor]:
        if output.location:
            return {"loss": told_apart(output.location["visual"], output.location["other"])}
        terms = {f"loss_{name}": F.cross_entropy(logits, output.target) for name, logits in output.logits.items()}
        return {"loss": sum(terms.values())} | terms

    def on_epoch_end(self, run) -> dict:
        record = super().on_epoch_end(run)
        if run.epoch and self.place_of(run.epoch) in (0, self.args.passes):
            clips, count = run.train.plain(), self.model.clusters
            found = torch.from_numpy(self.look(run, clips, self._objects)["object"])
            if self.place_of(run.epoch) == 0:
                self.assigned = cluster(found, count, mix(self.args.seed, run.epoch)).to(run.device)
                record |= self._compare(clips.labels)
            self.model.dictionary.copy_(entries(found, self.assigned.cpu(), count))
            self.model.gain.data.copy_(1 / self.model.dictionary.square().sum(dim=1).mean())
        return record

    def _objects(self, features, inputs) -> dict[str, Tensor]:
        location = self.model.location(features["audio"], features["visual"]).sigmoid()
        return {"object": object_features(features["visual"], location)}

    def _compare(self, labels) -> dict[str, dict[str, float]]:
        """Match the clusters with the categories of the clips, if these are known, for evaluation."""
        if labels is None:
            return {}
        clusters = self.assigned.cpu().numpy()
        self.matching = match(labels, clusters, len(self.categories), self.model.clusters).tolist()
        return {"clusters": {"NMI": float(normalized_mutual_info_score(labels, clusters))}}

    def evaluate(self, run, data) -> dict[str, float]:
        """IoU@0.5 and AUC of l on solo clips, at the end of a round; nothing after its other passes."""
        if not self.ends_round(run.epoch):
            return {}
        maps = self.look(run, data, lambda seen, _: {"location": self.locate(seen)["visual"].sigmoid()})
        return defined(evaluate_solo(maps["location"], objects_of(data), (self.args.image_size,) * 2, data.ratio))

    def state_dict(self) -> dict:
        return super().state_dict() | {"assigned": self.assigned}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.assigned = state["assigned"]
