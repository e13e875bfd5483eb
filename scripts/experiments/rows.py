"""Rows that several experiments share: joint training and InfoReg with the paper's values, controls, sweeps."""

from collections.abc import Callable, Sequence

from scripts.experiments.cells import ALONE, Row, Setting, parsed

TWO_SETS = ("CREMAD", "KineticsSounds")
BOTH = ("accuracy", "{modalities}")  # columns: the fused accuracy, and that of each modality


def controls(setting: Setting) -> tuple[Row, ...]:
    """Each modality alone, and the average of these models: without them no gain of a multimodal method can be read."""
    rows = [Row(f"{name} alone", ALONE.format(name), control=True) for name in setting.modalities]
    every = " ".join(f"{{{name}}}" for name in setting.modalities)
    return (*rows, Row("average of these", every, control=True, program="scripts/ensemble.py"))


def visual(value: float) -> dict[str, dict[str, float]]:
    """The paper's accuracy of video on CREMA-D."""
    return {"CREMAD": {"visual": value}}


def accuracy(dataset: str, value: float) -> dict[str, dict[str, float]]:
    """The paper's accuracy on one data set."""
    return {dataset: {"accuracy": value}}


def audio_visual(crema: Sequence[float], kinetics: Sequence[float]) -> dict[str, dict[str, float]]:
    """Accuracy of the model, of audio and of video on the paper's two data sets."""
    return {
        dataset: dict(zip(("accuracy", "audio", "visual"), values, strict=True))
        for dataset, values in zip(TWO_SETS, (crema, kinetics), strict=True)
    }


# Methods as the paper prints them; others go by the name that --method takes.
LABELS = {
    "joint": "Joint training", "gblending": "G-Blending", "ogm": "OGM", "greedy": "Greedy", "pmr": "PMR", "agm": "AGM",
    "mmpareto": "MMPareto", "inforeg": "InfoReg",
}  # fmt: skip
JOINT = Row("Joint training", "--method joint", audio_visual((66.61, 58.99, 35.14), (65.67, 53.13, 36.01)))
INFOREG = Row("InfoReg", "--method inforeg", audio_visual((71.90, 60.03, 49.65), (69.31, 54.16, 44.73)))
JOINT_STAR = Row(
    "Joint training*", "--method joint --unimodal_loss split",
    audio_visual((70.81, 60.52, 55.23), (68.71, 55.23, 44.18)),
)  # fmt: skip
INFOREG_STAR = Row(
    "InfoReg*", "--method inforeg --unimodal_loss split",
    audio_visual((75.71, 61.63, 61.22), (72.03, 57.21, 53.57)),
)  # fmt: skip


def sweep(flag: str, values: Sequence) -> tuple[Row, ...]:
    """InfoReg with each value of a flag; the row at the default has the paper's value of InfoReg."""
    default = vars(parsed(["--method", "inforeg"]))[flag]
    return tuple(
        Row(f"InfoReg, {flag} {value}", f"--method inforeg --{flag} {value}", INFOREG.paper if value == default else {})
        for value in values
    )


def rows(*fixed: Row) -> Callable[[Setting], tuple[Row, ...]]:
    """Rows that depend on nothing."""
    return lambda setting: fixed
