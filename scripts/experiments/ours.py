"""Experiments that the paper does not show: the demo, the ablations, every method under one recipe."""

from dataclasses import replace

from methods import METHODS
from scripts.experiments.cells import Row, Setting
from scripts.experiments.rows import INFOREG, INFOREG_STAR, JOINT, JOINT_STAR, controls, sweep


def ablation_regulation(setting: Setting) -> tuple[Row, ...]:
    """InfoReg with each way to slow the leader."""
    return JOINT, *sweep("regulation", ("proximal", "gradient", "lr"))


def ablation_variant(setting: Setting) -> tuple[Row, ...]:
    """By the paper's equations and by the rules of the public code, without and with losses for each modality."""
    official = "--method inforeg --variant official --unimodal_loss"
    return (
        *controls(setting),
        JOINT,
        INFOREG,
        Row("InfoReg, official", f"{official} none"),
        JOINT_STAR,
        INFOREG_STAR,
        Row("InfoReg*, official", f"{official} split"),
    )


def ablation_smoothing(setting: Setting) -> tuple[Row, ...]:
    """Up to the public code's 10 epochs."""
    return JOINT, *sweep("window_smoothing", (1, 2, 3, 5, 10))


def ablation_batch_size(setting: Setting) -> tuple[Row, ...]:
    """Sizes around the data set's default, all at its learning rate."""
    sizes = [max(1, round(factor * setting.args.batch_size)) for factor in (0.25, 0.5, 1, 2)]
    return tuple(
        Row(f"{label}, batches of {size}", f"--method {method} --batch_size {size}")
        for label, method in (("Joint training", "joint"), ("InfoReg", "inforeg"))
        for size in sizes
    )


def ablation_start(setting: Setting) -> tuple[Row, ...]:
    """By the paper's equations from epoch 2 on, the first with two traces before it; by the public code from 0 on."""
    official = (
        Row(f"{row.label}, official", f"{row.flags} --variant official --unimodal_loss none")
        for row in sweep("start_epoch", (0, 2, 5, 10))
    )
    return JOINT, *sweep("start_epoch", (2, 3, 5, 10)), *official


def ablation_window(setting: Setting) -> tuple[Row, ...]:
    """InfoReg and InfoReg* by each rule of the prime learning window."""
    label = {"paper": "the paper's window", "official": "the public code's", "accumulated": "accumulated"}
    regulated = [
        replace(row, label=f"{row.label}, {words}", flags=f"{row.flags} --window {rule}")
        for row in (INFOREG, INFOREG_STAR)
        for rule, words in label.items()
    ]
    return (*controls(setting), JOINT, *regulated[:3], JOINT_STAR, *regulated[3:])


def window_map(setting: Setting) -> tuple[Row, ...]:
    """Joint training and InfoReg by the accumulated window, around the recipe's learning rate and batch size."""
    rates = [float(f"{factor * setting.args.lr:.2g}") for factor in (0.25, 1, 2.5)]
    sizes = [max(2, round(factor * setting.args.batch_size)) for factor in (0.5, 1, 2)]
    rows = []
    for rate in rates:
        for size in sizes:
            words = f"lr {rate:g}, batches of {size}"
            flags = f"--lr {rate:g} --batch_size {size}"
            rows.append(Row(f"Joint training, {words}", f"{JOINT.flags} {flags}"))
            rows += [
                Row(f"InfoReg, K {k}, {words}", f"{INFOREG.flags} --window accumulated --threshold {k} {flags}")
                for k in (0.05, 0.2)
            ]
    return tuple(rows)


def demo(setting: Setting) -> tuple[Row, ...]:
    """Joint training, in which the picture starves, and InfoReg by the paper's window and by one of few steps."""
    few_steps = "--window accumulated --window_every 5 --threshold 0.01"
    return (
        *controls(setting),
        JOINT,
        replace(INFOREG, label="InfoReg, the paper's window"),
        Row("InfoReg, accumulated window", f"{INFOREG.flags} {few_steps}"),
    )


def stages(setting: Setting) -> str:
    """Phases of ReconBoost by which the run ends with a whole cycle of the modalities: the nearest to 4 and 4 epochs.

    No flags where the epochs cannot be cut so, a stage having one of each phase at least.
    """
    epochs, cycle = setting.args.epochs, len(setting.modalities)
    lengths = [n for n in range(2, epochs + 1) if epochs % n == 0 and epochs // n % cycle == 0]
    if not lengths:
        return ""
    length = min(lengths, key=lambda n: abs(n - 8))
    return f"--phase_epochs {length // 2} --rectify_epochs {length - length // 2}"


def methods(setting: Setting) -> tuple[Row, ...]:
    """Every method, and controls of some. Re-learning's rhythm is the published share of the epochs, 20 of 90.

    A method that is registered and not named here (docs/EXTENDING.md) is a row of its own, at its defaults.
    """
    teachers = " ".join(f"{name}={{{name}}}" for name in setting.modalities)
    named = (
        *controls(setting),
        JOINT,
        JOINT_STAR,
        Row("Joint training*, one shared head", "--method joint --unimodal_loss split --fusion shared"),
        Row("Joint training, sum", "--method joint --fusion sum"),
        Row("Joint training, heads", "--method joint --unimodal_loss heads"),
        Row("the same, encoder rate x 1.5", "--method joint --unimodal_loss heads --encoder_lr_factor 1.5"),
        *(Row(f"mslr, {name} x 0.5", f"--method mslr --modality_lr {name}=0.5") for name in setting.modalities),
        *(Row(name, f"--method {name}") for name in ("gblending", "ogm", "ogm_ge", "greedy")),
        Row("greedy, MMTM network alone", "--method greedy --curation none"),
        *(Row(name, f"--method {name}") for name in ("pmr", "agm", "mmpareto")),
        *ablation_variant(setting)[-5:-3],
        *ablation_variant(setting)[-2:],
        *(Row(name, f"--method {name}") for name in ("mmcosine", "cml", "mbsd", "opm", "opm_ogm", "valuation")),
        Row("reconboost", f"--method reconboost {stages(setting)}".rstrip()),
        Row("amco", f"--method amco --mask_epochs {max(1, round(0.4 * setting.args.epochs))}"),
        Row("relearning", f"--method relearning --every {max(1, round(setting.args.epochs * 20 / 90))}"),
        *(Row(name, f"--method {name}") for name in ("mla", "lfm", "cggm", "dgl", "arl", "tcmax", "aug")),
        Row("aug, one classifier each", "--method aug --max_classifiers 1"),
        *(Row(name, f"--method {name} --teachers {teachers}") for name in ("umt", "g2d")),
    )
    known = {word for row in named for word in row.flags.split()}
    return *named, *(Row(name, f"--method {name}") for name in METHODS if name not in known)
