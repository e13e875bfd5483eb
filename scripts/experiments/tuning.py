"""Which setting of a sweep the validation split chooses. Nothing here reads a number of the test split."""

from collections.abc import Sequence
from pathlib import Path

from dataset import DATASETS
from scripts.experiments.cells import Cell, Experiment, parsed
from scripts.results.render import Cell as TableCell
from scripts.results.render import render
from utils.errors import RunError
from utils.files import make_folder, write_atomically
from utils.runs.files import read_epochs, read_rule


def check_validation(argv: Sequence[str]) -> None:
    """Raises RunError if the run that main.py starts with these words has no validation split to choose on."""
    args = parsed(argv)
    if args.val_fraction == 0 and len(DATASETS[args.dataset].read_splits(args)) == 2:
        raise RunError(
            f"--tune chooses on a validation split, and {args.dataset} has none: withhold one by --val_fraction 0.1; "
            "the test split chooses nothing"
        )


def validated(folder: Path) -> tuple[int, float]:
    """The epoch, from 1, that the validation split chose in a finished run, and the validation accuracy there in %."""
    epoch = read_rule(folder, "val", "epoch")["epoch"]
    return epoch + 1, 100 * read_epochs(folder, "prime_window", "val")[epoch]["val"]["accuracy"]


def choose(cells: Sequence[Cell]) -> Cell:
    """The finished run with the highest validation accuracy; of equals the first.

    Raises:
        RunError: if none is finished.
    """
    done = [cell for cell in cells if cell.done]
    if not done:
        raise RunError("no setting has come to its end, so none can be chosen: their log.txt say why")
    return max(done, key=lambda cell: validated(cell.folder)[1])


def write(cells: Sequence[Cell], chosen: Cell, experiment: Experiment, out) -> str:
    """Write the table of the search and its plot, both of validation accuracies; returns the table as Markdown."""
    from scripts.drawing import figures, pictures, sweeps  # here, since the search needs no matplotlib

    dataset, seed = experiment.datasets[0], chosen.seed
    heading = f"Validation accuracy in %, at the epoch that the validation split selects, seed {seed}; bold: chosen."
    text = f"### {experiment.title}, {dataset}: the search\n\n{heading}\n\n{table(cells, chosen)}"
    make_folder(Path(out) / "tables")
    file = Path(out) / "tables" / f"{experiment.name}_{dataset}_search.md"
    write_atomically(file, text)
    accuracy = "validation accuracy (%)"
    picture = sweeps.sweep(figures.by_row(cells), experiment.swept, lambda folder: validated(folder)[1], accuracy)
    drawn = pictures.save(picture, Path(out) / "figures" / file.stem, f"{experiment.title}, {dataset}; {heading}")
    return f"{text}\nwritten: {file} and {drawn}"


def table(cells: Sequence[Cell], chosen: Cell) -> str:
    """Markdown: every setting's validation accuracy, the chosen one bold."""
    rows = []
    for cell in cells:
        epoch, accuracy = validated(cell.folder) if cell.done else ("-", None)
        shown = f"{accuracy:.1f}" if cell.done else cell.missing()
        rows.append([cell.row.label, TableCell(shown, "best" if cell is chosen else ""), epoch])
    return render(["setting", "validation accuracy", "epoch"], rows, "md")
