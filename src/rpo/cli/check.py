"""`rpo check`: the photos as `rpo train` sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpo.cli.options import CropFlag, PhotosArgument, Set
from rpo.config import load_config
from rpo.errors import UserError, printable


def check(
    photos: PhotosArgument,
    crop: CropFlag = None,
    settings: Set = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also write a contact sheet with the crops."),
    ] = None,
) -> None:
    r"""Show which photos would be used, and what is wrong with others.

    Crops, masks and captions are those that the same options give `rpo train`.
    Exits with 2 where `rpo train` would refuse the folder.

    [bold]Examples[/]

    [cyan]rpo check photos[/]
    [cyan]rpo check photos --sheet sheet.png[/]
    [cyan]rpo check photos.zip --crop subject --set photos.unmasked_weight=0.1[/]
    """
    from rpo.cli.tables import print_checks
    from rpo.data.contact_sheet import contact_sheet
    from rpo.data.subject import MIN_PHOTOS, check_folder

    if sheet is not None:
        _check_new_png(sheet)
    cropped = None if crop is None else {"crop": crop}
    chosen = load_config(overrides=settings or (), photos=cropped).photos
    checks = check_folder(photos, settings=chosen)
    print_checks(checks, chosen)
    if sheet is not None:
        try:
            contact_sheet(checks, settings=chosen).save(sheet, format="PNG")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--sheet {sheet}: cannot be written ({reason})") from None
        typer.echo(f"\nContact sheet: {printable(sheet)}")
    rejected = [item for item in checks if item.status == "rejected"]
    if rejected:
        count = f"{len(rejected)} of {len(checks)} photos"
        raise UserError(f"{photos}: {count} cannot be used; repair or remove them")
    usable = sum(item.status != "ignored" for item in checks)
    if usable < MIN_PHOTOS:
        raise UserError(f"{photos}: only {usable} photo; add more, best are 4 to 6")


def _check_new_png(sheet: Path) -> None:
    if sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: name a file that ends in .png")
    try:
        if sheet.exists() or sheet.is_symlink():
            raise UserError(f"--sheet {sheet}: exists already; name another file")
        if not sheet.absolute().parent.is_dir():
            raise UserError(f"--sheet {sheet}: its folder does not exist; make it first")
    except OSError as error:
        raise UserError(f"--sheet {sheet}: {error.strerror}; name another file") from None
