"""What goes wrong in a command, in one line."""

from typing import Any

import click

from pipelines.contract.errors import AquatintError


class Told(click.Group):
    """A group whose commands end with exit code 1 and the message on stderr where an error of the one tree ends them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except AquatintError as error:
            raise click.ClickException(" ".join(error.message.split())) from None
