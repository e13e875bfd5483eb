"""What things cost on this machine: a training step, the loader, evaluation, several processes, an epoch; memory.

    python scripts/benchmark.py step --dataset CREMAD --synthetic    # every method beside the bare step
    python scripts/benchmark.py data --dataset CREMAD --synthetic    # the loader beside one as the field writes it
    python scripts/benchmark.py eval --dataset CREMAD --synthetic    # evaluation beside a bare loop
    python scripts/benchmark.py ddp --dataset CREMAD                 # two processes beside one
    python scripts/benchmark.py epoch --dataset CREMAD               # an epoch of InfoReg beside one of joint training
    python scripts/benchmark.py memory --dataset CREMAD              # bytes of a step, and what batch fits; untimed

What is timed runs in turn, for five rounds or more; shown are medians and ranges. --json keeps every round. Each
command has a --help; flags that it does not know are main.py's.
"""

import argparse
import json
import sys
from pathlib import Path

from dataset import DATASETS
from engine.hints import one_of
from scripts.benchmarks import data, ddp, epoch, evaluation, memory, step
from scripts.benchmarks.synthetic import clips_of
from scripts.benchmarks.timing import LEAST_ROUNDS, machine
from utils.errors import one_sentence
from utils.files import write_atomically
from utils.numbers import positive
from utils.runs.provenance import provenance

COMMANDS = {"step": step, "data": data, "eval": evaluation, "ddp": ddp, "epoch": epoch, "memory": memory}


def main(argv: list[str] | None = None) -> str:
    """Print the report and return it as Markdown.

    Raises:
        RunError: if something that is to be measured cannot be set up, in one sentence.
    """
    argv = sys.argv[1:] if argv is None else argv
    asked, words = read(argv)
    if asked.synthetic:
        clips_of(asked.dataset)
    report = COMMANDS[asked.command].measure(asked, words)
    text = f"{report.markdown()}\n{machine(report.device)}\n"
    print(text)
    if asked.json:
        origin = provenance("scripts/benchmark.py", argv, report.device, None)
        content = (
            origin | {"machine_line": machine(report.device), "benchmark": asked.command, "markdown": text} | report.raw
        )
        write_atomically(asked.json, json.dumps(content, indent=2) + "\n")
    return text


def read(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of the benchmark, and the words that are for main.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, description=module.__doc__, formatter_class=parser.formatter_class, allow_abbrev=False
        )
        command.add_argument(
            "--dataset",
            choices=DATASETS,
            type=one_of(DATASETS),
            required=True,
            help="whose shapes, samples and defaults",
        )
        command.add_argument("--rounds", type=positive, default=LEAST_ROUNDS, help=f"{LEAST_ROUNDS} (default) or more")
        command.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
        module.add_args(command)
    asked, words = parser.parse_known_args(argv)
    if asked.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds {asked.rounds}: the median and the range are of {LEAST_ROUNDS} or more")
    if asked.json and not asked.json.parent.is_dir():
        parser.error(f"--json {asked.json}: {asked.json.parent} does not exist")
    for word in words:
        if reason := COMMANDS[asked.command].OURS.get(word.split("=")[0]):
            parser.error(f"{word}: {reason}")
    return asked, words


if __name__ == "__main__":
    with one_sentence():
        main()
