"""Prepare CMU-MOSI or CMU-MOSEI: one .npz that loads without pickle, of the features that MultiBench or MMSA publish.

    python data/prepare_mosi.py --raw raw/mosi_raw.pkl --out data/MOSI --replace_inf 0
    python data/prepare_mosi.py --raw raw/utterances.npz --split split_bclstm --out data/MOSI_utterances

Reads, by what is in it and whatever it is called:
- a pickle {train, valid, test} of {vision, audio, text, labels or regression_labels, id}: mosi_raw.pkl, mosi_data.pkl,
  mosei_raw.pkl, mosei_senti_data.pkl (MultiBench); aligned_50.pkl, unaligned_50.pkl (MMSA). Everything else in it is
  left alone and named. It is read by `dataset/prepare/pickles.py`, which runs nothing.
- an .npz of one vector per utterance: text, audio, vision or video (N, d), label (N,), ids (N,) and, named by --split,
  the part of each utterance: train, test and, where there is one, valid. Each becomes a series of one step.

Writes into --out
    series.npz      <part>_<modality> (N, T, d) float32; <part>_score (N,) in [-3, 3]; <part>_id (N,) text
    manifest.json   source and its sha256, settings, counts, the npz's sha256

As MultiBench does, utterances without any text are left out, and infinite values (MultiBench: -inf in audio) become
--replace_inf. Steps of zeros at the end of a series, the padding of MMSA's unaligned files, go to its beginning, where
MultiBench's files have it: the transformer reads out the last step.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.lists import repeated
from dataset.prepare import pickles
from dataset.prepare.arrays import checksum, complete, finished, write
from dataset.prepare.run import alone, check_out, run
from dataset.prepare.space import check_space
from utils.errors import DataError, RunError, list_names
from utils.files import write_atomically

PARTS = ("train", "valid", "test")
MODALITIES = ("vision", "audio", "text")
SCORES = ("regression_labels", "labels", "label")  # the first that is there; MMSA also has classification_labels
FILE = "series.npz"

Raw = dict[str, dict[str, np.ndarray]]  # part -> vision, audio, text, score, id


# --- Reading


def read_pickle(path: Path) -> tuple[Raw, list[str]]:
    """The parts of a pickle, as they are in it, and the names of the fields that are not used."""
    held = pickles.load(path)
    if not isinstance(held, dict) or not all(isinstance(held.get(part), dict) for part in PARTS):
        names = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise DataError(f"{path} must hold {', '.join(PARTS)}; it holds {names}: data/README.md names the files")
    raw, unused = {}, set()
    for part in PARTS:
        fields = held[part]
        score = next((name for name in SCORES if name in fields), None)
        missing = [name for name in MODALITIES if name not in fields] + ([] if score else ["labels"])
        if missing:
            raise DataError(f"{path}: {part} has no {', '.join(missing)}; it has {', '.join(map(str, fields))}")
        used = {name: name for name in MODALITIES} | {"score": score}
        raw[part] = {name: pickles.as_array(fields[key], f"{part} {key}") for name, key in used.items()}
        count = raw[part]["score"].size
        raw[part]["id"] = (
            pickles.names_of(fields["id"], part) if "id" in fields else [f"{part}{i:05d}" for i in range(count)]
        )
        unused |= set(map(str, fields)) - {*MODALITIES, score, "id"}
    return raw, sorted(unused)


def read_vectors(path: Path, split: str | None) -> tuple[Raw, list[str]]:
    """The parts of an .npz of utterance vectors, and the names of the arrays that are not used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: np.asarray(file[name]) for name in file}
    except Exception as error:  # a damaged archive fails in any way, and an array of objects
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{path} is not an .npz of plain arrays ({reason}): download it again, or save plain arrays"
        ) from error
    keys = {"vision": "video" if "video" in held else "vision", "audio": "audio", "text": "text", "id": "ids"}
    keys["score"] = next((name for name in SCORES if name in held), "label")
    if missing := [key for key in keys.values() if key not in held]:
        raise DataError(f"{path} has no {', '.join(missing)}; it has {', '.join(held)}")
    if split not in held:
        there = ", ".join(name for name in held if name.startswith("split")) or "none"
        raise DataError(f"--split must name a split of {path}, {there}; not {split}")
    part_of = held[split]
    if part_of.ndim != 1:
        raise DataError(f"{path}: {split} must be one word for each utterance; it has the shape {part_of.shape}")
    if unknown := sorted(set(part_of.tolist()) - set(PARTS)):
        raise DataError(f"{path}: {split} must say {', '.join(PARTS)}; it says {', '.join(map(str, unknown))}")
    lengths = {key: len(held[key]) if held[key].ndim else 0 for key in keys.values()}
    if other := {key: length for key, length in lengths.items() if length != len(part_of)}:
        raise DataError(f"{path}: {split} has {len(part_of)} rows, but {other}")
    raw = {}
    for part in PARTS:
        chosen = part_of == part
        if chosen.any():
            raw[part] = {
                name: pickles.as_array(held[keys[name]][chosen], keys[name]) for name in (*MODALITIES, "score")
            }
            raw[part] |= {name: raw[part][name][:, None] for name in MODALITIES if raw[part][name].ndim == 2}
            raw[part]["id"] = pickles.names_of(held[keys["id"]][chosen], part)
    return raw, sorted(set(held) - {*keys.values(), split})


# --- Checking and repairing


def check_shapes(raw: Raw) -> None:
    """Raise DataError unless all parts have series of one shape per modality, and a score and an id for each."""
    if absent := [part for part in ("train", "test") if part not in raw]:
        raise DataError(f"no utterance is in {', '.join(absent)}")
    for part, fields in raw.items():
        for name in MODALITIES:
            if fields[name].ndim != 3 or 0 in fields[name].shape:
                raise DataError(f"{part} {name} must have the shape (utterances, steps, features), none of them 0; "
                                   f"it has {fields[name].shape}")  # fmt: skip
            if fields[name].shape[1:] != raw["train"][name].shape[1:]:
                raise DataError(f"{name} has (steps, features) {raw['train'][name].shape[1:]} in train and "
                                   f"{fields[name].shape[1:]} in {part}")  # fmt: skip
        scores, count = fields["score"], len(fields["vision"])
        if not scores.ndim or scores.size != len(scores):
            raise DataError(f"{part}: one score an utterance is wanted; the labels have the shape {scores.shape}")
        fields["score"] = scores.reshape(-1).astype(np.float32)
        if lengths := {name: len(values) for name, values in fields.items() if len(values) != count}:
            raise DataError(f"{part} has {count} utterances in vision, but {lengths}")
        wrong = ~(np.abs(fields["score"]) <= 3)  # a NaN is wrong, too
        if wrong.any():
            raise DataError(f"{part}: scores must lie in [-3, 3]; not so for {shown(fields['id'], wrong)}")
    seen: dict[str, str] = {}
    for part, fields in raw.items():
        both = np.array([seen.get(name, part) != part for name in fields["id"]])
        if both.any():
            raise DataError(f"{part} has utterances of an earlier part, {shown(fields['id'], both)}: "
                               "no utterance may be in two")  # fmt: skip
        if twice := repeated(fields["id"]):
            raise DataError(f"{part} has several utterances of one id, {list_names(twice)}: each needs its own")
        seen |= dict.fromkeys(fields["id"], part)


def shown(names: Sequence[str], chosen: np.ndarray) -> str:
    """'3: a, b, c' or '12: a, b, c, d, e, ...'."""
    picked = [names[i] for i in np.flatnonzero(chosen)]
    return f"{len(picked)}: {', '.join(picked[:5])}{', ...' if len(picked) > 5 else ''}"


def repair(raw: Raw, replace_inf: float | None) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """The arrays of the .npz, and what has been done to each part.

    Raises:
        DataError: for NaN, and for infinite values without `replace_inf`; names every array that has some.
    """
    arrays, report, faults = {}, {}, []
    with tqdm(total=len(raw) * len(MODALITIES), desc="checking", unit="array") as bar:
        for part, fields in raw.items():
            spoken = fields["text"].any(axis=(1, 2))
            names, score = [fields["id"][i] for i in np.flatnonzero(spoken)], fields["score"][spoken]
            done = {"utterances": len(names), "without_text": int((~spoken).sum()), "scores": count_signs(score)}
            done |= {"replaced": {}, "moved": {}}
            for name in MODALITIES:
                with np.errstate(over="ignore"):  # what is too large for 32 bits is found below
                    series = fields.pop(name)[spoken].astype(np.float32)
                infinite, missing = np.isinf(series), np.isnan(series)
                if infinite.any() and replace_inf is not None:
                    done["replaced"][name] = int(infinite.sum())
                    series[infinite] = replace_inf
                elif infinite.any():
                    faults.append(f"{infinite.sum()} infinite in {part} {name}, utterances "
                                  + shown(names, infinite.any(axis=(1, 2))))  # fmt: skip
                if missing.any():
                    faults.append(f"{missing.sum()} NaN in {part} {name}, utterances "
                                  + shown(names, missing.any(axis=(1, 2))))  # fmt: skip
                done["moved"][name] = pad_in_front(series)
                arrays[f"{part}_{name}"] = series
                bar.update()
            if not names:
                raise DataError(f"no utterance of {part} has any text")
            arrays |= {f"{part}_score": score, f"{part}_id": np.array(names)}
            report[part] = done
    if faults:
        raise DataError(f"values that are not finite: {'; '.join(faults)}. --replace_inf 0 replaces infinite ones, "
                           "as MultiBench does; a file with NaN must be mended")  # fmt: skip
    return arrays, report


def count_signs(score: np.ndarray) -> dict[str, int]:
    """How many scores are negative, zero and positive."""
    return {"negative": int((score < 0).sum()), "zero": int((score == 0).sum()), "positive": int((score > 0).sum())}


def pad_in_front(series: np.ndarray) -> int:
    """Move steps of zeros from the end of each series (N, T, d) to its beginning, in place; how many had some."""
    full = series.any(axis=2)
    padding = np.where(full.any(axis=1), full[:, ::-1].argmax(axis=1), 0)  # an empty series stays
    for i in np.flatnonzero(padding):
        series[i] = np.roll(series[i], padding[i], axis=0)
    return int((padding > 0).sum())


# --- The run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, help="the file that was downloaded")
    parser.add_argument("--out", type=Path, default=Path("data/MOSI"), help="folder to write")
    parser.add_argument("--split", help="of an .npz of utterance vectors: the array that says each one's part")
    parser.add_argument("--replace_inf", type=float, help="what infinite features become; without it they are an error")
    args = parser.parse_args(argv)
    if not args.raw.is_file():
        raise RunError(f"--raw {args.raw} is not a file: data/README.md says where to get it")
    check_out(args.out)
    if args.replace_inf is not None and not np.isfinite(args.replace_inf):
        raise RunError(f"--replace_inf {args.replace_inf}: must be a finite number")
    with args.raw.open("rb") as file:
        vectors = file.read(2) == b"PK"  # as every .npz begins
    if args.split and not vectors:
        raise RunError(f"--split is for an .npz of utterance vectors, which {args.raw} is not")
    settings = {"file": args.raw.name, "sha256": checksum(args.raw), "split": args.split}
    settings["replace_inf"] = args.replace_inf
    with alone(args.out):
        prepare(args, settings, vectors)


def prepare(args: argparse.Namespace, settings: dict, vectors: bool) -> None:
    """Read, check and write, unless that has been done. vectors: the file is an .npz of utterance vectors."""
    if finished(args.out, settings, FILE):
        print(f"already there: {args.out / FILE}")
        return
    print(f"reading {args.raw}")
    raw, unused = read_vectors(args.raw, args.split) if vectors else read_pickle(args.raw)
    check_shapes(raw)
    shapes = {name: dict(zip(("steps", "features"), raw["train"][name].shape[1:], strict=True)) for name in MODALITIES}
    arrays, report = repair(raw, args.replace_inf)
    check_space(args.out, sum(array.nbytes for array in arrays.values()), f"{FILE} needs {{}}")
    manifest = {"settings": settings, "modalities": shapes, "parts": report, "unused": unused}
    # Before the data, so that a killed run is known as this one's.
    write_atomically(args.out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    write(args.out / FILE, arrays)
    complete(args.out, manifest, FILE)
    for name, shape in shapes.items():
        print(f"{name}: {shape['steps']} steps of {shape['features']} features")
    for part, done in report.items():
        signs = ", ".join(f"{count} {sign}" for sign, count in done["scores"].items())
        print(f"{part}: {done['utterances']} utterances ({signs}); left out without text: {done['without_text']}")
        for said, counts in (("infinite values replaced", done["replaced"]), ("padding moved", done["moved"])):
            if counted := ", ".join(f"{name} {count}" for name, count in counts.items() if count):
                print(f"{part}: {said}: {counted}")
    if unused:
        print(f"not used: {', '.join(unused)}")
    print(f"done: {args.out / FILE}")


if __name__ == "__main__":
    run(main)
