.PHONY: install format lint test ci readme

install:  ## everything that development needs, pinned
	pip install -r requirements-dev.txt

format:  ## rewrite the code in the house style
	ruff check --fix .
	ruff format .

lint:  ## style, types and the import contract
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test:  ## the whole suite
	pytest

ci:  ## what must pass before a change lands, in an environment of its own
	.ci/run

readme:  ## refill the README's table of project commands
	weasel document --output README.md
