"""The methods by name, in the order of the paper's tables."""

from methods.base import Method
from methods.inforeg import InfoRegMethod
from methods.joint import Joint
from methods.unimodal import Unimodal

METHODS: dict[str, type[Method]] = {"unimodal": Unimodal, "joint": Joint, "inforeg": InfoRegMethod}
