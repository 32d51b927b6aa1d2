"""Which prompts are answered together: trees that fit into a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spacy_universalner.universal_ner.models.trees import Tree


@dataclass
class Job:
    """Prompts of one document that share a tree.

    document (int): Which document.
    members (list[int]): Which of its prompts, one for each branch.
    tree (Tree): The prompts' tokens.
    shares (bool): Whether the tree may have a trunk.
    """

    document: int
    members: list[int]
    tree: Tree
    shares: bool = True


@dataclass(frozen=True)
class Budget:
    """How much may be in memory at once.

    batch_tokens (int): The most tokens.
    max_new_tokens (int): The longest answer of a prompt, in tokens.
    """

    batch_tokens: int
    max_new_tokens: int

    def cost(self, jobs: Sequence[Job]) -> int:
        """Count the tokens that a batch keeps when all its answers are of full length.

        jobs (Sequence[Job]): The batch; each is padded to the largest.
        RETURNS (int): The tokens.
        """
        size = max(job.tree.size for job in jobs)
        branches = max(len(job.members) for job in jobs)
        return len(jobs) * (size + branches * self.max_new_tokens)


def split(document: int, prompts: dict[int, list[int]], budget: Budget, share: bool) -> list[Job]:
    """Lay a document's prompts out as trees, none above the budget unless a single prompt is.

    document (int): Which document.
    prompts (dict[int, list[int]]): Token ids by the prompts' numbers.
    budget (Budget): What a tree may cost.
    share (bool): Whether prompts may share a tree.
    RETURNS (list[Job]): The trees, which hold each prompt once.
    """
    jobs = []
    waiting = [list(prompts)] if share and prompts else [[number] for number in prompts]
    while waiting:
        members = waiting.pop()
        tree = Tree.plant([prompts[number] for number in members], share=share)
        job = Job(document, members, tree, share)
        if len(members) > 1 and budget.cost([job]) > budget.batch_tokens:
            half = len(members) // 2
            waiting += [members[half:], members[:half]]
        else:
            jobs.append(job)
    return jobs


def batches(jobs: Sequence[Job], budget: Budget) -> Iterator[list[Job]]:
    """Put trees of similar size together, those that share and those that do not apart.

    jobs (Sequence[Job]): The trees.
    budget (Budget): What a batch may cost.
    YIELDS (list[Job]): Batches, the largest trees first; a tree above the budget is alone.
    """
    for shares in (True, False):
        batch: list[Job] = []
        alike = [job for job in jobs if job.shares == shares]
        for job in sorted(alike, key=lambda job: (-budget.cost([job]), -job.tree.size)):
            if batch and budget.cost([*batch, job]) > budget.batch_tokens:
                yield batch
                batch = []
            batch.append(job)
        if batch:
            yield batch
