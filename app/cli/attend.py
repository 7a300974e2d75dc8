"""What `train` does with a recipe that starts from a network that already sees."""

import json
from pathlib import Path
from typing import Any

import typer

from app.cli.shared import SOME_UNREAD, check_folder, report_unread, say
from cbam.errors import NotAvailable, UnknownName


def attend_family(
    recipe: Path,
    values: dict[str, Any],
    data: Path,
    attention: list[str],
    runs: Path,
    models: Path,
    force: bool,
) -> None:
    """Put attention into the network, train all members side by side, and write their models."""
    try:
        from cbam.training.attend import attend
    except ImportError as error:
        raise NotAvailable.extra("Training", "train", error.name) from error
    from cbam.training.bank import Bank
    from cbam.training.curves import curves
    from cbam.training.origin import begin, origin, write_attended
    from cbam.training.plan import BEFORE, read_attend_recipe
    from cbam.training.recipe import model_name, refuse_to_overwrite, remember

    plan = read_attend_recipe(recipe, values)
    for member in attention:
        if member not in plan.start.members:
            raise UnknownName.of(f"member of {recipe}", member, plan.start.members)
    if attention:
        start = plan.start.model_copy(update={"insert": attention})
        plan = plan.model_copy(update={"start": start})
    found = origin(plan.start.network, plan.start.like)
    teacher = None
    if plan.distil:
        teacher = found if plan.distil.teacher == BEFORE else origin(plan.distil.teacher)
    run = runs / plan.family
    names = [model_name(found.backbone, member, plan.family) for member in plan.start.members]
    for name in names if not force else ():
        refuse_to_overwrite(models / name, run / name)
    check_folder(run, create=True)
    check_folder(models, create=True)
    say(f"photos of {data} ...")
    folders = () if plan.distil else found.class_folders
    photos = Bank(data, plan.photo_size_px, folders, kept=run)
    say(f"{len(photos):,} photos")
    if photos.unread:
        report_unread(photos.unread)
    members = begin(plan, found, photos)
    rows = attend(
        members,
        photos,
        plan,
        run,
        teacher.network if teacher else None,
        found.preprocess,
        teacher.preprocess if teacher else None,
        say,
    )
    says = "agrees with the teacher" if plan.distil else "right"
    (run / "curves.svg").write_text(curves(rows, says), encoding="utf-8")
    (run / "plan.json").write_text(json.dumps(plan.model_dump(mode="json"), indent=1), "utf-8")
    for name, (member, network) in zip(names, members.items(), strict=True):
        card = write_attended(plan, found, member, network, models, recipe.name)
        (run / name).mkdir(exist_ok=True)
        remember(card, run / name)
        say(f"wrote {card.folder}")
    say(f"wrote {run / 'curves.svg'}")
    if photos.unread:
        raise typer.Exit(SOME_UNREAD)
