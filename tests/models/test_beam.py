"""Beam search against exhaustive enumeration, against beam searches in plain Python, and against the paper's way."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference_beam import dict_trie, reference_search
from small_transformer import Reencoding, Transformer

from rbserve.data.trie import build_trie
from rbserve.models import beam
from rbserve.models.beam import Beams, search

Path = tuple[int, ...]

properties = settings(max_examples=50)


class TableStepper:
    """Logits that are a fixed random function of prompt and path so far. The cache is every beam's path."""

    def __init__(self, vocabulary: int, seed: int = 0, spread: float = 2.0) -> None:
        self.vocabulary, self.seed, self.spread = vocabulary, seed, spread
        self.calls: list[tuple[Any, ...]] = []

    def row(self, prompt: Any, path: Path) -> NDArray[np.float32]:
        key = [self.seed, *(int(token) for token in prompt), 10**6, *path]
        noise = np.random.default_rng(key).normal(size=self.vocabulary)
        return np.float32(self.spread * noise)

    def prefill(self, prompts: Any) -> tuple[Any, Any]:
        self.calls.append(("prefill", prompts))
        return np.stack([self.row(prompt, ()) for prompt in prompts]), (prompts, [[()] for _ in prompts])

    def step(self, tokens: Any, parents: Any, cache: Any) -> tuple[Any, Any]:
        self.calls.append(("step", tokens, parents))
        prompts, before = cache
        paths = [
            [(*mine[parent], int(token)) for token, parent in zip(taken, came_from, strict=True)]
            for mine, taken, came_from in zip(before, tokens, parents, strict=True)
        ]
        rows = [
            [self.row(prompt, path) for path in mine] for prompt, mine in zip(prompts, paths, strict=True)
        ]
        return np.array(rows), (prompts, paths)


@dataclass(frozen=True)
class Case:
    paths: NDArray[np.int32]
    codes: int
    prompts: NDArray[np.int32]
    width: int
    seed: int

    @property
    def stepper(self) -> TableStepper:
        return TableStepper(self.paths.shape[1] * self.codes, self.seed)

    def search(self, *, constrained: bool, **changes: Any) -> Beams:
        given = {"stepper": self.stepper, "prompts": self.prompts, "width": self.width} | changes
        return search(
            trie=build_trie(self.paths), codes_per_level=self.codes, constrained=constrained, **given
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    levels, codes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    path = st.tuples(*[st.integers(0, codes - 1)] * levels)
    paths = draw(st.lists(path, min_size=1, max_size=20, unique=True))
    prompts = draw(st.lists(st.tuples(*[st.integers(0, 9)] * 2), min_size=1, max_size=3))
    return Case(
        np.array(paths, np.int32), codes, np.array(prompts, np.int32), draw(st.integers(1, 25)), draw(SEEDS)
    )


SEEDS = st.integers(0, 2**16)


# ---- The definitions, in plain Python ----


def log_softmax(values: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


def every_item(case: Case, prompt: Any) -> dict[int, float]:
    """The log-probability of every item, conditional on the path being an item's."""
    return dict(grow_all(case, prompt, (), dict_trie(case.paths), 0.0))


def grow_all(case: Case, prompt: Any, path: Path, node: Any, score: float) -> Any:
    if not isinstance(node, dict):
        yield node, score
        return
    tokens = [len(path) * case.codes + code for code in sorted(node)]
    gains = log_softmax([float(case.stepper.row(prompt, path)[token]) for token in tokens])
    for code, token, gain in zip(sorted(node), tokens, gains, strict=True):
        yield from grow_all(case, prompt, (*path, token), node[code], score + gain)


def plain_search(
    case: Case, prompt: Any, constrained: bool, depth: int | None = None
) -> list[tuple[Path, float]]:
    """The best paths of `depth` codes and their scores, by a beam search that lists, sorts and cuts."""
    levels = case.paths.shape[1]
    prefixes = {tuple(path[:n].tolist()) for path in as_tokens(case) for n in range(levels + 1)}
    beams: list[tuple[Path, float]] = [((), 0.0)]
    for _ in range(depth or levels):
        grown = []
        for path, score in beams:
            tokens = [t for t in range(case.stepper.vocabulary) if not constrained or (*path, t) in prefixes]
            gains = log_softmax([float(case.stepper.row(prompt, path)[token]) for token in tokens])
            grown += [((*path, token), score + gain) for token, gain in zip(tokens, gains, strict=True)]
        beams = sorted(grown, key=lambda candidate: (-candidate[1], candidate[0]))[: case.width]
    return beams


def as_tokens(case: Case) -> NDArray[np.int64]:
    return case.paths + case.codes * np.arange(case.paths.shape[1])


def found(beams: Beams, user: int) -> list[tuple[Path, float]]:
    paths, scores = beams.paths[user].tolist(), beams.scores[user].tolist()
    return [(tuple(path), score) for path, score in zip(paths, scores, strict=True) if score > -math.inf]


# ---- Both searches ----


@pytest.mark.parametrize("constrained", [True, False])
@properties
@given(cases())
def test_search_finds_what_a_search_in_plain_python_finds(constrained: bool, case: Case) -> None:
    beams = case.search(constrained=constrained)
    items = {tuple(path): item for item, path in enumerate(as_tokens(case).tolist())}
    for user, prompt in enumerate(case.prompts):
        expected = plain_search(case, prompt, constrained)
        actual = found(beams, user)
        assert [path for path, _ in actual] == [path for path, _ in expected]
        assert [score for _, score in actual] == pytest.approx([score for _, score in expected], abs=1e-5)
        assert beams.items[user, : len(actual)].tolist() == [items.get(path, -1) for path, _ in actual]


@pytest.mark.parametrize("constrained", [True, False])
@properties
@given(cases())
def test_results_are_padded_to_the_width_and_a_rank_belongs_to_one_item(
    constrained: bool, case: Case
) -> None:
    beams = case.search(constrained=constrained)
    users, levels = len(case.prompts), case.paths.shape[1]
    assert beams.items.shape == beams.scores.shape == (users, case.width)
    assert beams.paths.shape == (users, case.width, levels)
    assert (beams.items.dtype, beams.scores.dtype, beams.paths.dtype) == (np.int32, np.float32, np.int32)
    absent = beams.scores == -np.inf
    assert (beams.items[absent] == -1).all()
    assert (beams.paths[absent] == -1).all()
    for user in range(users):
        assert sorted(beams.scores[user], reverse=True) == beams.scores[user].tolist()
        assert set(Counter(path for path, _ in found(beams, user)).values()) == {1}
        items = beams.items[user][beams.items[user] >= 0].tolist()
        assert len(set(items)) == len(items)


@pytest.mark.parametrize("constrained", [True, False])
@properties
@given(cases())
def test_a_batch_of_users_is_each_user_alone(constrained: bool, case: Case) -> None:
    together = case.search(constrained=constrained)
    for user in range(len(case.prompts)):
        alone = case.search(constrained=constrained, prompts=case.prompts[user : user + 1])
        assert np.array_equal(together.items[user], alone.items[0])
        assert np.array_equal(together.paths[user], alone.paths[0])
        assert together.scores[user] == pytest.approx(alone.scores[0], abs=1e-6)


@pytest.mark.parametrize("constrained", [True, False])
def test_the_lower_of_equal_paths_comes_first(constrained: bool) -> None:
    paths = np.array(list(product(range(3), repeat=3)), np.int32)[::-1].copy()
    case = Case(paths, 3, np.zeros((1, 1), np.int32), 27, 0)
    legal, anything = product(range(3), range(3, 6), range(6, 9)), product(range(9), repeat=3)
    lowest = [list(path) for path in (legal if constrained else anything)]
    for width in (4, 27):
        beams = case.search(constrained=constrained, width=width, stepper=TableStepper(9, spread=0.0))
        assert beams.paths[0].tolist() == lowest[:width]


def test_the_lower_of_equal_paths_comes_first_below_better_ones() -> None:
    class LastFirst(TableStepper):
        def row(self, prompt: Any, path: Path) -> NDArray[np.float32]:
            del prompt
            return np.float32(np.arange(self.vocabulary) == (2 if not path else -1))

    paths = np.array(list(product(range(3), repeat=3)), np.int32)
    case = Case(paths, 3, np.zeros((1, 1), np.int32), 27, 0)
    beams = case.search(constrained=True, stepper=LastFirst(9))
    assert beams.items[0].tolist() == [*range(18, 27), *range(18)]


@pytest.mark.parametrize("constrained", [True, False])
def test_large_logits_make_no_infinite_scores(constrained: bool) -> None:
    paths = np.array(list(product(range(3), repeat=2)), np.int32)
    case = Case(paths, 3, np.zeros((2, 1), np.int32), 9, 0)
    beams = case.search(constrained=constrained, stepper=TableStepper(6, spread=1e4))
    assert np.isfinite(beams.scores).all()
    assert (beams.scores[:, 0] > -1).all()


@pytest.mark.parametrize("constrained", [True, False])
def test_the_search_asks_for_nothing_but_prompts_and_feeds_back_nothing_but_its_own_choice(
    constrained: bool,
) -> None:
    """Decoding never sees the target: it is no argument, and every token comes from the logits."""
    assert set(inspect.signature(search).parameters) == {
        "stepper", "prompts", "trie", "codes_per_level", "width", "constrained", "observe"
    }  # fmt: skip
    every_path = np.array(list(product(range(4), repeat=3)), np.int32)
    case = Case(every_path, 4, np.array([[1], [2]], np.int32), width=3, seed=5)
    stepper = case.stepper
    case.search(constrained=constrained, stepper=stepper)
    (_, prompts), *steps = stepper.calls
    assert prompts is case.prompts
    assert len(steps) == 2
    for user, prompt in enumerate(case.prompts):
        paths: list[Path] = [()]
        for depth, (_, tokens, parents) in enumerate(steps, start=1):
            pairs = zip(parents[user].tolist(), tokens[user].tolist(), strict=True)
            paths = [(*paths[parent], token) for parent, token in pairs]
            assert paths == sorted(path for path, _ in plain_search(case, prompt, constrained, depth))


@pytest.mark.parametrize("constrained", [True, False])
def test_each_stage_is_observed_as_it_ends(constrained: bool) -> None:
    every_path = np.array(list(product(range(2), repeat=3)), np.int32)
    stages: list[str] = []
    case = Case(every_path, 2, np.zeros((2, 1), np.int32), width=4, seed=0)
    case.search(constrained=constrained, observe=stages.append)
    assert stages == ["prefill", "filter", "top_k"] + 2 * ["step", "filter", "top_k"]


def test_a_width_of_none_and_codes_beyond_the_vocabulary_are_errors() -> None:
    case = Case(np.array([[0, 3]], np.int32), 4, np.zeros((1, 1), np.int32), width=1, seed=0)
    with pytest.raises(ValueError, match="width must be at least 1"):
        case.search(constrained=True, width=0)
    with pytest.raises(ValueError, match="code 3, with 3 codes a level"):
        search(case.stepper, case.prompts, build_trie(case.paths), 3, 1, constrained=True)


# ---- Conditional beam search ----


@properties
@given(cases())
def test_beams_for_all_items_rank_them_as_exhaustive_enumeration_does(case: Case) -> None:
    n = len(case.paths)
    beams = case.search(constrained=True, width=n)
    for user, prompt in enumerate(case.prompts):
        scores = every_item(case, prompt)
        assert beams.items[user].tolist() == sorted(scores, key=lambda item: -scores[item])
        assert beams.scores[user] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)
        assert np.exp(beams.scores[user]).sum() == pytest.approx(1, abs=1e-4)


@properties
@given(cases())
def test_a_constrained_search_finds_only_items_at_any_width(case: Case) -> None:
    beams = case.search(constrained=True)
    assert ((beams.items >= 0) == (beams.scores > -np.inf)).all()
    assert (beams.items[:, 0] >= 0).all()
    assert (beams.illegal == 0).all()


@properties
@given(cases())
def test_stopping_when_every_beam_has_one_item_left_changes_nothing(case: Case) -> None:
    stopped = case.search(constrained=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "_settled", lambda *_: False)
        complete = case.search(constrained=True)
    assert np.array_equal(stopped.items, complete.items)
    assert np.array_equal(stopped.paths, complete.paths)
    assert np.array_equal(stopped.scores, complete.scores)


@pytest.mark.parametrize(("paths", "steps"), [([[0, 1, 2], [1, 1, 2]], 0), ([[0, 1, 2], [0, 2, 2]], 1)])
def test_the_model_is_not_asked_about_codes_that_are_certain(paths: list[list[int]], steps: int) -> None:
    case = Case(np.array(paths, np.int32), 3, np.zeros((2, 1), np.int32), width=5, seed=0)
    stepper = case.stepper
    case.search(constrained=True, stepper=stepper)
    assert [name for name, *_ in stepper.calls] == ["prefill"] + steps * ["step"]


def test_scores_add_log_probabilities_not_probabilities() -> None:
    """By sums of probabilities item 2 (0.2 + 1) would come before item 1 (0.8 + 0.3)."""

    class Scripted(TableStepper):
        def row(self, prompt: Any, path: Path) -> NDArray[np.float32]:
            del prompt
            first = [0.8, 0.2] if not path else [1.0, 1.0]
            return np.log(np.float32([*first, 0.7, 0.3]))

    case = Case(np.array([[0, 0], [0, 1], [1, 0]], np.int32), 2, np.zeros((1, 1), np.int32), 3, 0)
    beams = case.search(constrained=True, stepper=Scripted(4))
    assert beams.items.tolist() == [[0, 1, 2]]
    assert np.exp(beams.scores[0]) == pytest.approx([0.56, 0.24, 0.2])


# ---- Free search ----


@properties
@given(cases())
def test_the_illegal_share_counts_finished_paths_that_are_no_items(case: Case) -> None:
    beams = case.search(constrained=False)
    legal = {tuple(path) for path in as_tokens(case).tolist()}
    for user in range(len(case.prompts)):
        paths = [path for path, _ in found(beams, user)]
        assert beams.illegal[user] == pytest.approx(np.mean([path not in legal for path in paths]))


def test_a_code_of_another_level_makes_a_path_illegal() -> None:
    case = Case(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32), 2, np.zeros((1, 1), np.int32), 16, 0)
    beams = case.search(constrained=False)
    in_place = (beams.paths[0] // 2 == [0, 1]).all(axis=1)
    assert np.array_equal(beams.items[0] >= 0, in_place)
    assert beams.illegal.tolist() == [0.75]


# ---- The paper's way ----


@torch.inference_mode()
@pytest.mark.parametrize("width", [10, 20])
def test_the_top_ten_are_those_of_the_papers_way(width: int) -> None:
    torch.manual_seed(0)
    levels, codes = 4, 8
    rng = np.random.default_rng(0)
    paths = np.unique(rng.integers(codes, size=(300, levels), dtype=np.int32), axis=0)
    prompts = rng.integers(levels * codes, size=(6, 12), dtype=np.int32)
    model = Transformer(levels * codes).eval()
    beams = search(Reencoding(model), prompts, build_trie(paths), codes, width, constrained=True)
    for user, prompt in enumerate(prompts):
        items, scores = reference_search(model, torch.from_numpy(prompt).long(), paths, width)
        assert beams.items[user, :10].tolist() == items[:10]
        assert beams.scores[user, :10] == pytest.approx(scores[:10], abs=1e-4)
