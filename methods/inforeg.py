"""InfoReg in this repository's training loop (the method itself: inforeg/regulation.py)."""

from inforeg.regulation import BETA, REGULATIONS, InfoReg
from inforeg.window import VARIANTS
from methods.base import Method
from utils.numbers import number


class InfoRegMethod(Method):
    """InfoReg in this repository's training loop."""

    modulates = True

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's equations, or the public code's rules; the defaults of --beta, --window and "
            "--unimodal_loss follow from it",
        )  # fmt: skip
        group.add_argument("--beta", type=number, help="alpha = exp(beta tanh(lead)); 0.9: Fig. 7; public code: 1")
        group.add_argument(
            "--regulation", choices=REGULATIONS, default="proximal",
            help="slow the leader by a proximal term (Eq. 12), by 1/alpha on its gradient, or on its learning rate",
        )  # fmt: skip

    @classmethod
    def defaults(cls, args) -> dict:
        unimodal_loss = {"paper": "none", "official": "split"}[args.variant]
        values = {"beta": BETA[args.variant], "window": args.variant, "unimodal_loss": unimodal_loss}
        return values | {"modulate_during": "prime"}

    def __init__(self, args, model):
        super().__init__(args, model)
        self.regulation = InfoReg(
            model.encoders,
            beta=args.beta,
            threshold=args.threshold,
            smoothing=args.window_smoothing,
            start_epoch=args.start_epoch,
            regulation=args.regulation,
            variant=args.variant,
            during=args.modulate_during,
            window=args.window,
            every=args.window_every,
        )
        self.trace, self.window = self.regulation.trace, self.regulation.window

    def on_fit_start(self, run) -> None:
        if self.args.regulation == "lr":
            self.regulation.attach(run.optimizer)

    def on_epoch_start(self, run) -> None:
        self.regulation.start_epoch()

    def after_backward(self, output) -> None:
        self.regulation.step(output.unimodal, output.target)

    def on_epoch_end(self, run) -> dict:
        return self.regulation.end_epoch()

    def state_dict(self) -> dict:
        return super().state_dict() | self.regulation.state_dict()

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.regulation.load_state_dict(state)
