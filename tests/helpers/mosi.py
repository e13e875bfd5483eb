"""Files in the published layouts of MOSI and MOSEI, and what their preparation has made of them."""

import json

import numpy as np

COUNTS = {"train": 8, "valid": 3, "test": 5}
SCORES = [-3.0, 0.0, 1.2, -0.6, 3.0, 0.2, -1.0, 2.0]


def series(part, name, steps, features, dtype=np.float32):
    """Numbers that are never 0, other ones for each part and modality."""
    draws = np.random.default_rng([len(part), len(name), steps, features])
    return draws.uniform(0.5, 1.5, (COUNTS[part], steps, features)).astype(dtype)


def multibench(features=(35, 74, 300), steps=6, dtype=np.float64, labels=(1, 1)):
    """The layout of mosi_raw.pkl; with 20, 5, 300 features that of mosi_data.pkl."""
    data = {}
    for part, count in COUNTS.items():
        data[part] = {
            name: series(part, name, steps, d, dtype)
            for name, d in zip(("vision", "audio", "text"), features, strict=True)
        }
        for values in data[part].values():
            values[0, :2] = 0  # padding in front
        data[part]["labels"] = np.array(SCORES[:count], dtype).reshape(count, *labels)
        data[part]["id"] = np.array([[f"{part}video", f"{i}.5", i] for i in range(count)], object)
    return data


def mmsa(steps=(4, 9, 7)):
    """The layout of aligned_50.pkl (equal steps) and unaligned_50.pkl: text, audio, vision."""
    data = {}
    for part, count in COUNTS.items():
        fields = dict(zip(("text", "audio", "vision"), zip(steps, (768, 5, 20), strict=True), strict=True))
        data[part] = {name: series(part, name, *shape) for name, shape in fields.items()}
        data[part] |= {
            "raw_text": np.array(["what is said"] * count),
            "text_bert": np.ones((count, 3, steps[0])),
            "id": [f"{part}$_${i}" for i in range(count)],
            "annotations": ["Neutral"] * count,
            "classification_labels": np.zeros(count),
            "regression_labels": np.array(SCORES[:count], np.float32),
            "audio_lengths": [2] * count,
            "vision_lengths": [steps[2]] * count,
        }
        data[part]["audio"][:, 2:] = 0  # padding at the end
    return data


def written(folder):
    with np.load(folder / "out" / "series.npz", allow_pickle=False) as file:
        return dict(file)


def manifest(folder):
    return json.loads((folder / "out" / "manifest.json").read_text())


def refusal(run, *args, **flags):
    status, _, error = run(*args, **flags)
    message = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(message) == 1 and "Traceback" not in error, error
    return message[0]


def object_array(values):
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array
