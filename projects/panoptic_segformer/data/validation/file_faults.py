"""Faults of the files of one annotated picture: what can't be read, what is read otherwise than it was meant."""

from __future__ import annotations

from collections.abc import Iterator

from .examining import UPRIGHT, Example, FileState, ImageFile
from .faults import Faults, Finding, Severity

__all__ = ["FILE_FAULTS", "has_odd_png", "has_wrong_json_size", "ids_disagree"]

FILE_FAULTS: Faults[Example] = Faults()

_COPY_AGAIN = "copy the file again, or remove its entries from the json"
# Formats that change pixels while they save them.
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_CLIPPED = ("I", "F")
_GREY = ("L", "1")
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


@FILE_FAULTS.add(Severity.ERROR, "complete the folder, or remove the entries from the json")
def picture_missing(example: Example) -> Iterator[Finding]:
    """A picture that the json annotates does not exist."""
    yield from _in_state(example.picture, FileState.MISSING)


@FILE_FAULTS.add(Severity.ERROR, _COPY_AGAIN)
def picture_incomplete(example: Example) -> Iterator[Finding]:
    """A picture is damaged or cut off, as after a copy that stopped half way."""
    yield from _in_state(example.picture, FileState.INCOMPLETE)


@FILE_FAULTS.add(Severity.ERROR, "save it as JPEG or PNG, smaller if it is too large, or remove its entries")
def picture_unreadable(example: Example) -> Iterator[Finding]:
    """A picture is of no format that can be read, or too large."""
    yield from _in_state(example.picture, FileState.UNREADABLE)


@FILE_FAULTS.add(Severity.ERROR, "complete the folder, or remove the annotations from the json")
def png_missing(example: Example) -> Iterator[Finding]:
    """A png of segment ids does not exist."""
    yield from _in_state(example.png, FileState.MISSING)


@FILE_FAULTS.add(Severity.ERROR, _COPY_AGAIN)
def png_incomplete(example: Example) -> Iterator[Finding]:
    """A png of segment ids is damaged or cut off, as after a copy that stopped half way."""
    yield from _in_state(example.png, FileState.INCOMPLETE)


@FILE_FAULTS.add(Severity.ERROR, "write the png again")
def png_unreadable(example: Example) -> Iterator[Finding]:
    """A png of segment ids is no picture at all, or too large."""
    yield from _in_state(example.png, FileState.UNREADABLE)


@FILE_FAULTS.add(Severity.ERROR, "write it as a png: a lossy format changes the ids")
def png_lossy(example: Example) -> Iterator[Finding]:
    """A file of segment ids is of a format that changes pixels."""
    if example.png.format in _LOSSY:
        yield Finding(example.png.name, example.png.format, "PNG")


@FILE_FAULTS.add(Severity.ERROR, "write the png with three channels of 8 bits, id = red + 256 green + 65536 blue")
def png_mode_wrong(example: Example) -> Iterator[Finding]:
    """A png of segment ids is not RGB of 8 bits, and read as RGB it has other ids than the json."""
    if _has_other_mode(example) and ids_disagree(example):
        yield Finding(example.png.name, f"mode {example.png.mode}", "mode RGB")


@FILE_FAULTS.add(Severity.WARNING, "write the png as RGB: other tools may read other ids")
def png_mode_unusual(example: Example) -> Iterator[Finding]:
    """A png of segment ids is not RGB of 8 bits, but has the json's ids when it is read as RGB."""
    if _has_other_mode(example) and not ids_disagree(example):
        yield Finding(example.png.name, f"mode {example.png.mode}", "mode RGB")


@FILE_FAULTS.add(Severity.ERROR, "save the picture without EXIF rotation, or turn its annotation")
def picture_turned_sideways(example: Example) -> Iterator[Finding]:
    """The json has the size of a picture before its EXIF rotation, which is applied when pictures are read."""
    if _is_turned_sideways(example):
        picture = example.picture
        seen = f"json and file {_words(picture.stored_size)}, EXIF orientation {picture.orientation}"
        yield Finding(picture.name, seen, _words(picture.size))


@FILE_FAULTS.add(Severity.WARNING, "look at an overlay: the truth must fit the picture as it is shown")
def picture_turned(example: Example) -> Iterator[Finding]:
    """A picture has an EXIF rotation, which is applied here; the sizes fit, other tools may ignore it."""
    if example.picture.is_sound and example.picture.orientation != UPRIGHT and not _is_turned_sideways(example):
        yield Finding(example.picture.name, f"EXIF orientation {example.picture.orientation}", UPRIGHT)


@FILE_FAULTS.add(Severity.ERROR, "use the picture that was annotated, in its original size")
def size_of_picture(example: Example) -> Iterator[Finding]:
    """Json and png agree in the size, the picture has another one."""
    if _is_odd_picture(example):
        yield Finding(example.picture.name, _words(example.picture.size), _words(example.json_size))


@FILE_FAULTS.add(Severity.ERROR, "write the picture's height and width", is_fixable=True)
def size_in_json(example: Example) -> Iterator[Finding]:
    """Height and width in the json are not the picture's."""
    if has_wrong_json_size(example):
        yield Finding(example.picture.name, _words(example.json_size), _words(example.picture.size))


@FILE_FAULTS.add(Severity.ERROR, "write the png in the picture's size: every pixel needs its segment id")
def size_of_png(example: Example) -> Iterator[Finding]:
    """A png of segment ids has another size than its picture."""
    if has_odd_png(example):
        yield Finding(example.png.name, _words(example.png.size), _words(_picture_size(example)))


@FILE_FAULTS.add(Severity.WARNING, "save the picture with 8 bits, scaled as it should be seen")
def picture_deep(example: Example) -> Iterator[Finding]:
    """A grey picture has 16 bits per pixel, of which the upper 8 are used: cameras of 12 bits give black."""
    yield from _of_mode(example.picture, _DEEP)


@FILE_FAULTS.add(Severity.ERROR, "save the picture with 8 bits: as it is, all above 255 is read as white")
def picture_clipped(example: Example) -> Iterator[Finding]:
    """A picture has 32 bits per pixel in one channel."""
    yield from _of_mode(example.picture, _CLIPPED)


@FILE_FAULTS.add(Severity.NOTE, "nothing: the grey becomes red, green and blue")
def picture_grey(example: Example) -> Iterator[Finding]:
    """A picture has no colours."""
    yield from _of_mode(example.picture, _GREY)


@FILE_FAULTS.add(Severity.WARNING, "save the picture as RGB, if its transparent pixels matter")
def picture_alpha(example: Example) -> Iterator[Finding]:
    """A picture has a channel of transparency, which is ignored."""
    yield from _of_mode(example.picture, _ALPHA)


@FILE_FAULTS.add(Severity.NOTE, "nothing: the colours are looked up")
def picture_palette(example: Example) -> Iterator[Finding]:
    """A picture has a palette of colours."""
    yield from _of_mode(example.picture, ("P",))


@FILE_FAULTS.add(Severity.WARNING, "save the picture as RGB: the conversion that is made here knows no colour profile")
def picture_mode_unusual(example: Example) -> Iterator[Finding]:
    """A picture is neither RGB nor grey, such as CMYK for printing."""
    if example.picture.is_sound and example.picture.mode not in ("RGB", "P", *_GREY, *_ALPHA, *_DEEP, *_CLIPPED):
        yield Finding(example.picture.name, f"mode {example.picture.mode}", "mode RGB")


def ids_disagree(example: Example) -> bool:
    """Return whether json and png have different segment ids."""
    return set(example.extents or ()) != {segment["id"] for segment in example.annotation["segments_info"]}


def has_odd_png(example: Example) -> bool:
    """Return whether the png's size is the one that is wrong."""
    if not example.png.is_sound or _is_odd_picture(example):
        return False
    turned_alike = _is_turned_sideways(example) and example.png.size == example.picture.stored_size
    return example.png.size != _picture_size(example) and not turned_alike


def has_wrong_json_size(example: Example) -> bool:
    """Return whether the json's size is the one that is wrong."""
    is_other = example.picture.is_sound and example.json_size != example.picture.size
    return is_other and not _is_odd_picture(example) and not _is_turned_sideways(example)


def _picture_size(example: Example) -> tuple[int, int]:
    return example.picture.size if example.picture.is_sound else example.json_size


def _is_turned_sideways(example: Example) -> bool:
    picture = example.picture
    is_turned = picture.is_sound and picture.size != picture.stored_size == example.json_size
    return is_turned and example.png.size != picture.size


def _is_odd_picture(example: Example) -> bool:
    if not (example.picture.is_sound and example.png.is_sound) or _is_turned_sideways(example):
        return False
    return example.picture.size != example.json_size == example.png.size


def _has_other_mode(example: Example) -> bool:
    return example.png.is_sound and example.png.format not in _LOSSY and example.png.mode != "RGB"


def _in_state(file: ImageFile, state: FileState) -> Iterator[Finding]:
    if file.state is state:
        yield Finding(file.name, file.problem)


def _of_mode(picture: ImageFile, modes: tuple[str, ...]) -> Iterator[Finding]:
    if picture.is_sound and picture.mode in modes:
        yield Finding(picture.name, f"mode {picture.mode}")


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
