"""One encoder trained alone: the control without which no table of balanced learning can be read."""

from methods.base import Method
from utils.errors import RunError


class Unimodal(Method):
    """L = CE(z^m, y) with encoder m and one linear layer; the other modalities are neither built nor read."""

    takes_unimodal_loss = False

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument("--modality", metavar="NAME", help="the modality to train alone, one of the data set's")

    @classmethod
    def modalities(cls, args, available: tuple[str, ...]) -> tuple[str, ...]:
        if args.modality not in available:
            raise RunError(
                f"--method unimodal needs --modality, one of {', '.join(available)}"
                + (f"; not {args.modality!r}" if args.modality else "")
            )
        if args.fusion != "concat":
            raise RunError("--method unimodal has nothing to fuse: leave --fusion away")
        return (args.modality,)
