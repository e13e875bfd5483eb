"""The methods by name, in the order of the paper's tables; those that are not in them follow by year."""

from methods.agm import AGM
from methods.amco import AMCo
from methods.arl import ARL
from methods.aug import AUG
from methods.base import Method
from methods.cggm import CGGM
from methods.cml import CML
from methods.dgl import DGL
from methods.g2d import G2D
from methods.gblending import GBlending
from methods.greedy import Greedy
from methods.inforeg import InfoRegMethod
from methods.joint import Joint
from methods.lfm import LFM
from methods.mbsd import MBSD
from methods.mla import MLA
from methods.mmcosine import MMCosine
from methods.mmcsal import MMCSAL
from methods.mmpareto import MMPareto
from methods.mslr import MSLR
from methods.ogm import OGM, OGMGE
from methods.opm import OPM, OPMWithOGM
from methods.pmr import PMR
from methods.reconboost import ReconBoost
from methods.relearning import Relearning
from methods.tcmax import TCMax
from methods.umt import UMT
from methods.unimodal import Unimodal
from methods.valuation import Valuation

METHODS: dict[str, type[Method]] = {
    "unimodal": Unimodal,
    "joint": Joint,
    "gblending": GBlending,
    "ogm": OGM,
    "ogm_ge": OGMGE,
    "greedy": Greedy,
    "pmr": PMR,
    "agm": AGM,
    "mmpareto": MMPareto,
    "inforeg": InfoRegMethod,
    "mslr": MSLR,
    "mmcosine": MMCosine,
    "umt": UMT,
    "cml": CML,
    "mbsd": MBSD,
    "amco": AMCo,
    "opm": OPM,
    "opm_ogm": OPMWithOGM,
    "valuation": Valuation,
    "relearning": Relearning,
    "mla": MLA,
    "lfm": LFM,
    "reconboost": ReconBoost,
    "cggm": CGGM,
    "dgl": DGL,
    "arl": ARL,
    "g2d": G2D,
    "aug": AUG,
    "tcmax": TCMax,
}

# What reads no label: encoders that others start from, and accuracies that mean nothing.
PRETRAINING: dict[str, type[Method]] = {"mmcsal": MMCSAL}


def method_of(name: str) -> type[Method] | None:
    """The method that --method names; None if none is registered under the name."""
    return METHODS.get(name) or PRETRAINING.get(name)
