"""The zoo is the paper's Tables 3 to 5, row for row, and rows beyond it; its names select what they say."""

from __future__ import annotations

from collections import Counter

import pytest

from rbserve.core.errors import UsageError
from rbserve.models.configs import CONFIGS
from rbserve.models.drivers import ARCHITECTURES
from rbserve.models.zoo import (
    BACKBONES,
    BEYOND,
    MODELS,
    find_model,
    models,
    select_models,
    with_backbone,
)

ROWS_PER_GROUP = {"A": 9, "B": 4, "C": 4, "D": 4, "E": 21, "F": 2, "G": 4, "H": 6, "I": 5, "J": 4}


def names(selection: str) -> list[str]:
    return [spec.name for spec in select_models(selection)]


def test_the_zoo_has_every_row_of_the_paper_once() -> None:
    assert Counter(spec.group for spec in MODELS) == ROWS_PER_GROUP
    assert len({spec.name for spec in MODELS}) == len(MODELS) == 63
    # The tables repeat a name only across tables or sections: no group has the same row twice.
    repeated = Counter((spec.group, spec.recipe, spec.paper_name) for spec in MODELS)
    assert max(repeated.values()) == 1


def test_tasks_and_item_forms_follow_the_groups() -> None:
    assert {spec.group for spec in MODELS if spec.task == "ctr"} == set("ABCDEF")
    forms = {spec.group: spec.item_form for spec in MODELS}
    assert {form: {g for g in forms if forms[g] == form} for form in set(forms.values())} == {
        "id": set("AGID"),
        "text": set("BE"),
        "embedding": {"C"},
        "semantic_id": set("FHJ"),
    }


def test_group_a_has_the_config_of_its_name_and_needs_nothing() -> None:
    assert all(type(spec.config) is CONFIGS[spec.name] for spec in models("A"))
    assert all(not spec.needs for spec in models("A"))


def test_every_row_has_a_config_and_every_backbone_an_architecture_that_is_driven() -> None:
    assert all(type(spec.config) in CONFIGS.values() for spec in MODELS)
    assert {one.architecture for one in BACKBONES.values()} <= {*ARCHITECTURES, "api"}


def test_every_backbone_is_a_row_and_every_language_model_row_has_one() -> None:
    papers = {name for name, backbone in BACKBONES.items() if backbone.paper}
    assert len(papers) == 17
    assert all(name == backbone.name for name, backbone in BACKBONES.items())
    assert {spec.backbone for spec in MODELS if spec.backbone} == papers
    assert {spec.group for spec in MODELS if spec.backbone} == set("DEFIJ")
    assert all(spec.name.removesuffix("-cbs").endswith(spec.backbone) for spec in MODELS if spec.backbone)


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("text-llama-3-8b", ("hub weights meta-llama/Meta-Llama-3-8B", "item texts")),
        ("zeroshot-gpt-3.5", ("an OpenAI-compatible endpoint", "item texts")),
        ("dnn-text", ("item texts",)),
        ("gdcn-emb", ("item texts", "a frozen language model: minilm-l6, or --set encoder=")),
        ("bst-emb", ("item texts", "a frozen language model: minilm-l6, or --set encoder=")),
        ("sid-sasrec-3l-cbs", ("semantic identifiers",)),
        ("seq-p5-bert-base", ("hub weights bert-base-uncased",)),
        ("sasrec-24l", ()),
        ("sid-sasrec-3l-parallel", ("semantic identifiers",)),
        ("seq-sid-minilm-l6-parallel", ("asset minilm-l6", "semantic identifiers")),
        ("sasrec-2l-emb", ("item texts", "a frozen language model: minilm-l6, or --set encoder=")),
    ],
)
def test_a_row_names_what_it_takes(name: str, needs: tuple[str, ...]) -> None:
    assert tuple(need for need in find_model(name).needs if not need.startswith("recipe ")) == needs


def test_constrained_decoding_has_a_recipe_of_its_own() -> None:
    constrained = {spec.name for spec in MODELS if spec.recipe.endswith("-cbs")}
    assert constrained == {spec.name for spec in MODELS if spec.name.endswith("-cbs")}
    assert len(constrained) == 5


def test_rows_beyond_the_paper_are_named_like_their_config_and_stand_outside_its_groups() -> None:
    assert {spec.group for spec in BEYOND} == {"X"}
    assert all(spec.paper_name is None for spec in BEYOND)
    assert all(spec.name == spec.recipe for spec in BEYOND if spec.backbone is None)
    assert not {spec.name for spec in BEYOND} & {spec.name for spec in MODELS}
    assert models("X") == BEYOND


def test_rows_beyond_the_paper_are_selected_by_name_or_as_x_and_are_no_part_of_all() -> None:
    assert select_models("X") == list(BEYOND)
    assert names("itemknn") == ["itemknn"]
    assert names("itemknn,gdcn") == ["gdcn", "itemknn"], "behind the rows of the paper"
    assert not {"itemknn"} & {*names("all"), *names("A-J")}


def test_models_lists_one_group_or_all() -> None:
    assert models() == MODELS
    assert [spec.name for spec in models("G")] == ["sasrec-3l", "sasrec-6l", "sasrec-12l", "sasrec-24l"]


def test_a_model_is_found_by_name_and_an_unknown_one_hints_at_the_nearest() -> None:
    assert find_model("gdcn").paper_name == "GDCN"
    with pytest.raises(UsageError, match=r"^unknown model: dcnv3$") as wrong:
        find_model("dcnv3")
    assert wrong.value.hint == "did you mean dcnv2?"


def test_a_selection_takes_groups_ranges_and_names_in_table_order() -> None:
    assert select_models("all") == list(MODELS)
    assert select_models("A") == list(models("A"))
    assert select_models("C,A") == [*models("A"), *models("C")]
    assert select_models("A-H") == [spec for spec in MODELS if spec.group <= "H"]
    assert select_models("C-C") == list(models("C"))
    assert names("gdcn, dnn") == ["dnn", "gdcn"]
    assert names("dnn,A,dnn") == [spec.name for spec in models("A")]
    assert names("sasrec-3l,F") == ["sid-bert-base", "sid-opt-350m", "sasrec-3l"]
    assert [names(spec.name) for spec in MODELS] == [[spec.name] for spec in MODELS]


@pytest.mark.parametrize("text", ["K", "A-K", "A-X", "H-A", "A-", "-A", "a-text"])
def test_a_selection_of_nothing_known_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"^unknown model or group: {text}$"):
        select_models(text)


def test_a_selection_with_one_unknown_part_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"^unknown model or group: gdnc$") as wrong:
        select_models("dnn,gdnc")
    assert wrong.value.hint == "did you mean gdcn?"


@pytest.mark.parametrize("text", ["", " ", ","])
def test_an_empty_selection_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no model is selected"):
        select_models(text)


def test_a_recipe_takes_any_backbone() -> None:
    assert with_backbone("text", "bert-base") is find_model("text-bert-base")
    own = with_backbone("seq-sid-cbs", "someone/My_Llama 2")
    assert (own.name, own.weights_of, own.group) == ("seq-sid-my-llama-2-cbs", "seq-sid-my-llama-2", "J")
    assert own.config.backbone == "someone/My_Llama 2"
    assert with_backbone("seq-sid-parallel", "minilm-l6") is find_model("seq-sid-minilm-l6-parallel")
    beyond = with_backbone("seq-sid-parallel", "bert-base")
    assert (beyond.name, beyond.weights_of, beyond.group) == ("seq-sid-bert-base-parallel", None, "X")
    with pytest.raises(UsageError, match="unknown recipe: dnn"):
        with_backbone("dnn", "bert-base")
