"""Picture files of every kind become the RGB that a viewer shows, or are named; in every data set, cache and shard."""

import shutil

import numpy as np
import pytest
import torch
from helpers.cached import batches, load
from helpers.instances import make_hateful_memes, make_ucf101, read_rows
from PIL import Image

from dataset import build
from dataset.recipes.frames import list_frames
from dataset.recipes.pictures import ORIENTATION, read_picture, size_of
from dataset.storage import store
from engine.parser import parse
from utils.errors import DataError

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
SIDES = np.random.default_rng(0).integers(0, 256, (9, 17, 3), np.uint8)


@pytest.fixture(autouse=True)
def forget():
    """As a new process: no store has been opened yet."""
    store.opened.cache_clear()


@pytest.mark.parametrize("mode, form", [("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"), ("I", "ppm")])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, mode, form):
    path = tmp_path / f"picture.{form}"
    levels = RAMP.astype(np.uint16) * 257
    if mode == "I;16B":
        image = Image.frombytes(mode, (64, 48), levels.astype(">u2").tobytes())
    else:
        image = Image.fromarray(levels.astype(np.int32) if mode == "I" else levels)
    image.save(path)
    found = read_picture(path)
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.stack([RAMP] * 3, axis=2))


def transparent(mode):
    """Black, opaque in a part, on nothing."""
    alpha = np.zeros((20, 20), np.uint8)
    alpha[5:10] = 255
    black = np.zeros((20, 20), np.uint8)
    if mode == "P":
        image = Image.frombytes("P", (20, 20), (alpha // 255).tobytes())
        image.putpalette([0, 0, 0] * 256)
        image.info["transparency"] = 0
        return image
    channels = [black] * (3 if mode == "RGBA" else 1) + [alpha]
    return Image.merge(mode, [Image.fromarray(channel) for channel in channels])


@pytest.mark.parametrize(
    "mode, form", [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "webp"), ("RGBA", "tiff")]
)
def test_what_is_transparent_shows_white(tmp_path, mode, form):
    path = tmp_path / "picture"
    kind = dict(lossless=True) if form == "webp" else {}
    transparent(mode).save(path, form, **kind, **({"transparency": 0} if mode == "P" else {}))
    found = np.asarray(read_picture(path))
    expected = np.full((20, 20, 3), 255, np.uint8)
    expected[5:10] = 0
    assert np.array_equal(found, expected)


def test_half_transparent_levels_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (4, 4), (100, 0, 200, 128)).save(tmp_path / "picture.png")
    expected = [level * 128 / 255 + 127 for level in (100, 0, 200)]
    assert np.abs(np.asarray(read_picture(tmp_path / "picture.png")) - expected).max() <= 1


TURNS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}  # fmt: skip


@pytest.mark.parametrize("form", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_are_turned_as_their_orientation_says(tmp_path, form, orientation):
    path, pixels = tmp_path / "picture", np.kron(SIDES, np.ones((8, 8, 1), np.uint8))
    image = Image.fromarray(pixels)
    image.save(tmp_path / "plain", form, quality=95)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, form, exif=exif, quality=95)
    found, plain = np.asarray(read_picture(path)), np.asarray(read_picture(tmp_path / "plain"))
    assert np.array_equal(found, TURNS[orientation](plain))
    assert size_of(path) == found.shape[1::-1] and size_of(tmp_path / "plain") == plain.shape[1::-1]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1", "P"])
def test_other_kinds_are_read_as_pillow_converts_them(tmp_path, mode):
    image, path = Image.fromarray(SIDES).convert(mode), tmp_path / "picture.tiff"
    image.save(path)
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(Image.open(path).convert("RGB")))


def animation(path, form):
    Image.new("RGB", (8, 8)).save(
        path, form, save_all=True, append_images=[Image.new("RGB", (8, 8), (9 * i, 0, 0)) for i in (10, 20)]
    )


def white_is_zero(path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path, "tiff", tiffinfo={0x106: 0})
    assert Image.open(path).tag_v2[0x106] == 0


REFUSED = {
    "float": (lambda path: Image.fromarray(RAMP / np.float32(255)).save(path, "tiff"), "Pillow's mode F"),
    "32 bits": (lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path, "tiff"), "Pillow's mode I,"),
    "LAB": (lambda path: Image.frombytes("LAB", (4, 4), bytes(48)).save(path, "tiff"), "LAB, .*: save it as 8-bit RGB"),
    "gif": (lambda path: animation(path, "gif"), "it holds 3 pictures"),
    "png": (lambda path: animation(path, "png"), "it holds 3 pictures"),
    "webp": (lambda path: animation(path, "webp"), "it holds 3 pictures"),
    "pages": (lambda path: animation(path, "tiff"), "it holds 3 pictures"),
    "white is zero": (white_is_zero, "of which 0 is white"),
    "transparent level": (
        lambda path: Image.fromarray(RAMP.astype(np.uint16)).save(path, "png", transparency=0), "one is transparent",
    ),
    "text": (lambda path: path.write_text("hello"), "cannot identify"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_leaves_open_how_it_looks_is_refused(tmp_path, kind):
    make, said = REFUSED[kind]
    make(tmp_path / "picture")
    with pytest.raises(OSError, match=said):
        read_picture(tmp_path / "picture")


def test_an_orientation_that_cannot_be_read_is_none(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(SIDES).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffnonsense")
    assert read_picture(path).size == size_of(path) == (17, 9)


# Every data set, cache and shard


@pytest.fixture
def odd(demo, tmp_path):
    """The demo, whose pictures are now 16-bit grey, transparent, or lie on their side."""
    root = shutil.copytree(demo, tmp_path / "demo")
    for number, path in enumerate(sorted(root.glob("Image-04-FPS/*/*.jpg"))):
        upright = Image.open(path).convert("L").resize((40, 32))
        grey = np.asarray(upright)
        if number % 3 == 0:
            Image.fromarray(grey.astype(np.uint16) * 257).save(path, "png")
        elif number % 3 == 1:
            Image.merge("LA", [Image.new("L", (40, 32)), Image.fromarray(255 - grey)]).save(path, "png")
        else:
            exif = upright.getexif()
            exif[ORIENTATION] = 6
            Image.fromarray(np.rot90(grey)).save(path, "png", exif=exif)
        Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "plain.png")
        assert np.abs(np.asarray(read_picture(path), int) - np.asarray(Image.open(tmp_path / "plain.png"))).max() <= 1
    return root


def test_every_cache_reads_them_alike(odd, tmp_path):
    whole = [batches(load(odd, mode, places=tmp_path / "cache").test) for mode in ("none", "ram", "disk", "device")]
    for several in zip(*whole, strict=True):
        for other in several[1:]:
            assert all(torch.equal(several[0].inputs[name], other.inputs[name]) for name in ("audio", "visual"))


def test_shards_read_them_alike(odd, tmp_path):
    import pack_shards

    pack_shards.main(["--data_root", str(odd), "--out", str(tmp_path / "out"), "--samples", "64"])
    folder, sharded = (batches(load(root, "none").test) for root in (odd, tmp_path / "out" / "{000..001}.tar"))
    for one, other in zip(folder, sharded, strict=True):
        assert torch.equal(one.inputs["visual"], other.inputs["visual"])


def test_memes_are_read_so_too(tmp_path):
    root = make_hateful_memes(tmp_path / "data")
    transparent("RGBA").save(root / read_rows(root / "test_seen.jsonl")[0]["img"])
    args = parse(["--dataset", "HatefulMemes", "--data_root", str(root), "--image_size", "20"])
    picture = build(args, ("image", "text")).test[0][0]["image"][0]
    assert picture[7].unique().numel() == 1 and picture[15].min() > picture[7].max()
    animation(root / read_rows(root / "test_seen.jsonl")[0]["img"], "png")
    with pytest.raises(DataError, match=r"00048.png does not decode \(it holds 3 pictures"):
        build(args, ("image", "text")).test[0]


def test_a_flow_in_another_kind_of_file_is_the_same_flow(tmp_path):
    root = make_ucf101(tmp_path / "data")
    args = parse(["--dataset", "UCF101", "--data_root", str(root), "--image_size", "20", "--frames", "4"])
    before = build(args, ("rgb", "flow")).test[0][0]["flow"]
    for path in (root / "Flow-03-FPS").glob("*/*.png"):
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
    assert torch.equal(build(args, ("rgb", "flow")).test[0][0]["flow"], before)


# Time


@pytest.mark.parametrize(
    "names", [["4", "8", "11"], ["f1", "f2", "f10"], ["00004", "00008", "00011"], ["a2b1", "a2b10", "a10b1"]], ids=str
)
def test_frames_come_in_the_order_of_their_numbers(tmp_path, names):
    for name in reversed(names):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.jpg")
    assert [path.stem for path in list_frames(tmp_path)] == names


@pytest.mark.parametrize(
    "more, said",
    [
        ("00003.jpg", "pictures of one number, 1: 00003.jpg and 3.jpg: remove"),
        ("3.JPG", "pictures of one number, 1: 3.JPG and 3.jpg"),
        ("4.jpeg", "pictures of another type than .jpg, 1: 4.jpeg: convert"),
        ("4.PNG", "1: 4.PNG"),
    ],
)
def test_pictures_that_would_count_twice_or_not_at_all_are_named(tmp_path, more, said):
    for name in ("1.jpg", "2.jpg", "3.jpg", more):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as refused:
        list_frames(tmp_path)
    assert str(tmp_path) in str(refused.value) and said in str(refused.value)


def test_hidden_files_and_the_case_of_a_suffix_do_not_matter(tmp_path):
    for name in ("1.jpg", "2.JPG", "3.Jpg", "4.txt", "._1.jpg", "._1.png"):
        (tmp_path / name).touch()
    assert [path.name for path in list_frames(tmp_path)] == ["1.jpg", "2.JPG", "3.Jpg"]
