"""Hateful Memes: the vocabulary, padding and unknown words, the published files and their faults."""

import shutil

import pytest
import torch
from helpers.instances import make_hateful_memes, read_rows, write_rows

from dataset import build
from dataset.hateful_memes import HatefulMemes
from dataset.loader import Seeded
from dataset.recipes.text import PADDING, UNKNOWN, Vocabulary, words_of
from engine.parser import parse
from models.encoders import WordAverage
from utils.errors import DataError

BOTH = ("image", "text")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_hateful_memes(tmp_path_factory.mktemp("memes") / "data")


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def arguments(root, *flags):
    argv = ["--dataset", "HatefulMemes", "--data_root", str(root), "--image_size", "16", "--text_length", "8"]
    return parse([*argv, *flags])


def load(root, *flags, modalities=BOTH):
    return build(arguments(root, *flags), modalities)


def fault(root, *flags, **options):
    with pytest.raises(DataError) as stopped:
        load(root, *flags, **options)
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


# Words


@pytest.mark.parametrize(
    "text, words",
    [
        ("It's 2 Late, isn’t it?", ["it's", "2", "late", "isn’t", "it"]),
        ("'quoted' rock 'n' roll", ["quoted", "rock", "n", "roll"]),
        ("Łódź — ÉTÉ", ["łódź", "été"]),
        ("!?  \n", []),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


def test_the_vocabulary_is_of_frequent_words_in_a_fixed_order():
    texts = ["b b b a a", "c c a once", "d d e e"]
    assert Vocabulary(texts, 100).numbers == {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6}
    assert Vocabulary(texts, 3).numbers == {"a": 2, "b": 3, "c": 4}
    assert Vocabulary(reversed(texts), 3).numbers == Vocabulary(texts, 3).numbers
    assert Vocabulary(texts, 3).encode("C once d a never", 7) == [4, UNKNOWN, UNKNOWN, 2, UNKNOWN, PADDING, PADDING]
    assert Vocabulary(texts, 3).encode("a b c a", 2) == [2, 3] and Vocabulary([], 3).encode("a", 2) == [
        UNKNOWN,
        PADDING,
    ]


def test_the_vocabulary_is_that_of_the_training_split_alone(root):
    before = load(root)
    rows = read_rows(root / "test_seen.jsonl")
    for row in rows:
        row["text"] = "meme meme zebra zebra nice"
    write_rows(root / "test_seen.jsonl", rows)
    after = load(root)
    numbers = Vocabulary([row["text"] for row in read_rows(root / "train.jsonl")], 5000).numbers
    assert set(numbers) == {"just", "a", "bad", "nice", "meme", "of"}
    wanted = [numbers["meme"]] * 2 + [UNKNOWN] * 2 + [numbers["nice"]] + [PADDING] * 3
    assert all(after.test[i][0]["text"].tolist() == wanted for i in range(len(rows)))
    assert all(torch.equal(before.train[i][0]["text"], after.train[i][0]["text"]) for i in range(len(before.train)))
    shown = {number: word for word, number in numbers.items()} | {UNKNOWN: "?"}
    assert [shown[n] for n in before.train[1][0]["text"].tolist() if n] == ["just", "a", "bad", "meme", "of", "?"]


# The encoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return WordAverage(10).double()


def test_a_feature_is_the_mean_of_the_words_through_two_layers(encoder):
    found = encoder(torch.tensor([[3, 4, 3, 0]]))
    table, (first, _, second, _) = encoder.embedding.weight, encoder.layers
    mean = (2 * table[3] + table[4]) / 3
    torch.testing.assert_close(found[0], second((first(mean)).relu()).relu())
    assert found.shape == (1, encoder.dim)


def test_padding_and_order_change_nothing_and_unknown_words_count(encoder):
    text = torch.tensor([[3, 4, 1]])
    padded, turned = torch.tensor([[3, 4, 1, 0, 0, 0]]), torch.tensor([[1, 4, 3]])
    torch.testing.assert_close(encoder(padded), encoder(text))
    torch.testing.assert_close(encoder(turned), encoder(text))
    assert not torch.allclose(encoder(torch.tensor([[3, 4]])), encoder(text))


def test_a_text_without_words_is_finite_and_the_embedding_of_padding_stays_zero(encoder):
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    start = encoder.embedding.weight.detach().clone()
    for _ in range(3):
        loss = encoder(torch.tensor([[0, 0, 0], [3, 1, 0]])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite() and not encoder.embedding.weight[PADDING].any()
    moved = (encoder.embedding.weight != 0.999**3 * start).any(dim=1)
    assert moved[3] and moved[UNKNOWN]


# Samples and files


def test_a_sample(whole):
    data = load(whole)
    assert (len(data.train), len(data.test), data.classes) == (36, 12, ("not-hateful", "hateful"))
    for part in (data.train, data.test):
        for wanted in range(4):
            inputs, target, position = part[wanted]
            assert tuple(inputs) == BOTH and (target, position) == (wanted % 2, wanted)
            assert inputs["image"].shape == (3, 16, 16) and inputs["image"].dtype == torch.float32
            assert inputs["text"].shape == (8,) and inputs["text"].dtype == torch.int64
    train, test = (Seeded(part, 0, epoch)[0][0] for part, epoch in ((data.train, 0), (data.test, 0)))
    assert not torch.equal(train["image"], Seeded(data.train, 0, 1)[0][0]["image"])
    assert torch.equal(test["image"], Seeded(data.test, 0, 1)[0][0]["image"])


def test_the_model_follows_from_the_flags_alone(whole):
    encoders = HatefulMemes.encoders(arguments("nowhere", "--vocabulary", "7"))
    assert tuple(encoders) == BOTH and encoders["text"]().embedding.num_embeddings == 9
    texts = torch.stack([load(whole, "--vocabulary", "2").train[i][0]["text"] for i in range(36)])
    assert set(texts.unique().tolist()) == {0, 1, 2, 3}


def test_another_file_can_be_tested_on(root):
    assert load(root, "--test_split", "dev_seen").test.names == [str(n) for n in range(36, 48)]
    assert f"{root / 'dev_unseen.jsonl'} does not exist" in fault(root, "--test_split", "dev_unseen")


def test_a_test_file_without_labels_is_refused_with_the_remedy(root):
    rows = read_rows(root / "test_seen.jsonl")
    for row in rows:
        del row["label"]
    write_rows(root / "test_seen.jsonl", rows)
    message = fault(root)
    assert f"{root / 'test_seen.jsonl'} has no label in 12 of 12 lines" in message
    assert "after the challenge" in message and "--test_split dev_seen" in message
    assert len(load(root, "--test_split", "dev_seen").test) == 12


def test_every_missing_picture_of_both_files_is_named_in_one_error(root):
    gone = [f"img/{number:05d}.png" for number in (3, 30, 31, 32, 33, 34, 50)]
    for picture in gone:
        (root / picture).unlink()
    (root / "img/00005.png").write_bytes(b"")
    message = fault(root)
    assert f"missing 7: {', '.join(gone)}; empty 1: img/00005.png" in message and "data/README.md" in message
    assert load(root, modalities=("text",)).train[3][0].keys() == {"text"}


def row(**changes):
    return {"id": 3, "img": "img/00003.png", "label": 1, "text": "a"} | changes


FAULTS = {
    "not JSON": ("{\n", "1: line 1"),
    "too deep": ("[" * 100_000, "1: line 1"),
    "not an object": ([row(), [1, 2]], "1: line 2"),
    "no text": ([{"id": 3, "img": "img/00003.png", "label": 1}], "1: line 1"),
    "label of words": ([row(label="hateful")], "1: line 1"),
    "label 2": ([row(label=2)], "1: line 1"),
    "label true": ([row(label=True)], "1: line 1"),
    "text of numbers": ([row(text=5)], "1: line 1"),
    "one without a label": ([row(), row(id=4, label=None)], "no label in 1 of 2 lines"),
    "twice": ([row(), row()], "more than once, 1: 3"),
    "outside": ([row(img="../secret.png"), row(id=4, img="/etc/passwd")], "outside the data folder, 2: 3, 4"),
    "in both": ([row(id=50)], "both train and test, 1: 50"),
    "empty": ([], "train.jsonl is empty"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faulty_files_are_refused(root, kind):
    rows, said = FAULTS[kind]
    if isinstance(rows, str):
        (root / "train.jsonl").write_text(rows)
    else:
        write_rows(root / "train.jsonl", rows)
    message = fault(root)
    assert said in message and "train.jsonl" in message or kind == "in both" and said in message, message


def test_a_missing_folder_and_a_picture_that_does_not_decode(root, tmp_path):
    assert f"{tmp_path / 'nowhere'} does not exist" in fault(tmp_path / "nowhere")
    (root / "img/00000.png").write_bytes(b"no picture")
    whole = (root / "img/00001.png").read_bytes()
    (root / "img/00001.png").write_bytes(whole[: len(whole) // 2])
    header = whole.index(b"IDAT")
    (root / "img/00002.png").write_bytes(whole[:header] + b"\0DAT" + whole[header + 4 :])
    for position in range(3):
        with pytest.raises(DataError, match=f"img/0000{position}.png does not decode"):
            load(root).train[position]
