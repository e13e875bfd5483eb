"""InfoReg in this repository's training loop (the method itself: inforeg/regulation.py)."""

from inforeg.regulation import DEFAULTS, REGULATIONS, InfoReg
from inforeg.window import VARIANTS
from methods.base import Method
from utils.numbers import count, number


class InfoRegMethod(Method):
    """InfoReg in this repository's training loop."""

    modulates = True

    @classmethod
    def add_args(cls, group) -> None:
        group.add_argument(
            "--variant", choices=VARIANTS, default="paper",
            help="the paper's equations, or the public code's rules; the defaults of --beta, --threshold, "
            "--window_smoothing, --start_epoch and --unimodal_loss follow from it",
        )  # fmt: skip
        group.add_argument("--beta", type=number, help="alpha = exp(beta tanh(lead)); 0.9: Fig. 7; public code: 1")
        group.add_argument(
            "--regulation", choices=REGULATIONS, default="proximal",
            help="slow the leader by a proximal term (Eq. 12), by 1/alpha on its gradient, or on its learning rate",
        )  # fmt: skip
        group.add_argument(
            "--start_epoch", type=count, help="first epoch that may be regulated; 2: Algorithm 1; public code: 0"
        )

    @classmethod
    def defaults(cls, args) -> dict:
        values = dict(DEFAULTS[args.variant])
        values["window_smoothing"] = values.pop("smoothing")
        return values | {"modulate_during": "prime", "unimodal_loss": "none" if args.variant == "paper" else "split"}

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
