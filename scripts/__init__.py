"""The commands of project.yml, one Typer program each."""
