"""MSLR: Modality-specific Learning Rates for Effective Multimodal Additive Late-fusion (Findings of ACL 2022).

Encoders of different kinds are best trained at different learning rates, and one rate for all may leave a modality
behind. So every encoder has its own:

    w_m <- w_m - lambda_m lr g_m        lambda_m: the factor of --modality_lr, 1 for who is not named there

This is joint training with fixed rates: the control of every method that makes an encoder faster or slower by what it
measures. The rates have to be searched for. The flag serves every method; this name is there so that tables have a row
for it.
"""

from methods.base import Method
from utils.errors import RunError


class MSLR(Method):
    """Joint training, in which --modality_lr says how fast each encoder learns."""

    @classmethod
    def modalities(cls, args, available: tuple[str, ...]) -> tuple[str, ...]:
        if not args.modality_lr:
            raise RunError(
                f"--method mslr needs --modality_lr, a factor of the learning rate for one or more of "
                f"{', '.join(available)}, such as --modality_lr {available[0]}=0.5"
            )
        return available
