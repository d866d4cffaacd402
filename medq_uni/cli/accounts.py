"""The commands that keep the accounts of annotation."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medq_uni.cli.shared import DatasetArgument, StoreOption, clear_errors, need_extra, open_store
from medq_uni.errors import MedQError

app = typer.Typer(no_args_is_help=True, help="Add, list and change the accounts of reviewers and administrators.")
NameArgument = Annotated[str, typer.Argument(help="Name of the account.")]
PasswordOption = Annotated[
    Path | None, typer.Option(help="File whose first line is the password; without, it is asked for.")
]


class RoleName(StrEnum):
    """What an account may do."""

    REVIEWER = "reviewer"
    ADMINISTRATOR = "administrator"


@app.command()
def add(
    dataset: DatasetArgument,
    name: NameArgument,
    store: StoreOption = None,
    role: Annotated[RoleName, typer.Option(help="What it may do.")] = RoleName.REVIEWER,
    password_file: PasswordOption = None,
) -> None:
    """Add an account."""
    with clear_errors(), open_store(dataset, store, create=True) as opened:
        from medq_uni.annotate.records import Role

        opened.accounts.add(name, Role(role.value), _hash(password_file))
    typer.echo(f"{name}: added as {role.value}")


@app.command("list")
def show(dataset: DatasetArgument, store: StoreOption = None) -> None:
    """List the accounts."""
    with clear_errors(), open_store(dataset, store) as opened:
        for account in opened.accounts.all():
            typer.echo(f"{account.name}\t{account.role.value}\t{'disabled' if account.is_disabled else 'active'}")


@app.command()
def change(
    dataset: DatasetArgument,
    name: NameArgument,
    store: StoreOption = None,
    role: Annotated[RoleName | None, typer.Option(help="New role.")] = None,
    disable: Annotated[bool | None, typer.Option("--disable/--enable", help="Whether it may sign in.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_file: PasswordOption = None,
) -> None:
    """Change role, password or state of an account; a new password and the end of an account sign it out everywhere."""
    with clear_errors(), open_store(dataset, store) as opened:
        from medq_uni.annotate.records import Role

        account = opened.accounts.find(name)
        if account is None:
            raise MedQError("there is no such account. List them with: medq annotate user list")
        hashed = _hash(password_file) if password or password_file is not None else None
        new_role = None if role is None else Role(role.value)
        changed = opened.accounts.change(account.id, role=new_role, password_hash=hashed, is_disabled=disable)
    typer.echo(f"{changed.name}: {changed.role.value}, {'disabled' if changed.is_disabled else 'active'}")


def _hash(password_file: Path | None) -> str:
    need_extra("serve", "argon2")
    from medq_uni.files import read_text
    from medq_uni.review.sign_in import hash_password

    if password_file is None:
        password: Any = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        lines = read_text(password_file).splitlines()
        password = lines[0] if lines else ""
    return str(hash_password(password))
