"""Models of other libraries become graphs that score like them, or are refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adopted import small_requests, write_requests
from library_models import (
    CHANCE,
    CLICKS,
    FEATURES,
    GRADES,
    LIBRARIES,
    ROWS,
    Saved,
    X,
    catboost,
    forest,
    lightgbm,
    rows,
    sklearn,
    xgboost,
)

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.artifact import open_artifact
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters import library_graph, library_models
from rbserve.exporters.adopt.adopt import adopt as adopt_model
from rbserve.exporters.adopt.adopt import fill
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.libraries import convert, library_format
from rbserve.runtimes import native
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.session import open_session

COLUMNS = {
    "click": ColumnRecord("int64", "candidate", None, 0),
    "age": ColumnRecord("float64", "request", None, 1),
    "title": ColumnRecord("str", "candidate", None, 2),
    "likes": ColumnRecord("int32", "candidate", None, 3),
    "history": ColumnRecord("int64", "request", -1, 4),
}
THREES = np.arange(ROWS) % 3
OPTIONS = AdoptOptions(label="click")


def adopt(saved: Saved | Path, folder: Path, options: AdoptOptions = OPTIONS, **columns: Any) -> Converted:
    """What `convert` makes of a model in a folder that it has for itself."""
    path = saved if isinstance(saved, Path) else saved.path
    (folder / "adopted").mkdir()
    return convert(path, COLUMNS | columns, options, folder / "adopted")


def graph_scores(converted: Converted, features: Any) -> Any:
    assert converted.graph is not None
    signature = converted.signature
    scores = open_session(converted.graph, 1).run([signature.score], {"features": features})[0]
    assert list(scores.shape[1:]) == signature.outputs[0].dims[1:]
    return scores[:, signature.score_column] if signature.score_column else scores.reshape(-1)


def refused(saved: Saved | Path, folder: Path, options: AdoptOptions = OPTIONS) -> UsageError:
    with pytest.raises(UsageError) as caught:
        adopt(saved, folder, options)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert not list((folder / "adopted").iterdir()), "something was left behind"
    return caught.value


def gradient_boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=6, random_state=1)


def histogram_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=6, random_state=1)


def pipeline() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def network() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((4,), max_iter=5, random_state=1)


MODELS: dict[str, Callable[[Path], Saved]] = {
    "lightgbm binary": lightgbm,
    "lightgbm ranker": lambda folder: lightgbm(folder, GRADES, objective="lambdarank"),
    "lightgbm regression": lambda folder: lightgbm(folder, CHANCE, objective="regression"),
    "lightgbm poisson": lambda folder: lightgbm(folder, GRADES, objective="poisson"),
    "lightgbm dart": lambda folder: lightgbm(folder, boosting="dart"),
    "xgboost binary": xgboost,
    "xgboost ubj": lambda folder: xgboost(folder, suffix=".ubj"),
    "xgboost ranker": lambda folder: xgboost(folder, GRADES, objective="rank:ndcg"),
    "xgboost pairs": lambda folder: xgboost(folder, objective="rank:pairwise"),
    "xgboost regression": lambda folder: xgboost(folder, CHANCE, objective="reg:squarederror"),
    "xgboost logistic regression": lambda folder: xgboost(folder, CHANCE, objective="reg:logistic"),
    "xgboost rare clicks": lambda folder: xgboost(folder, base_score=0.02),
    "catboost binary": catboost,
    "catboost json": lambda folder: catboost(folder, suffix=".json"),
    "catboost ranker": lambda folder: catboost(folder, GRADES, loss_function="YetiRank"),
    "catboost regression": lambda folder: catboost(folder, CHANCE, loss_function="RMSE"),
    "sklearn forest": lambda folder: sklearn(folder, forest()),
    "sklearn gradient boosting": lambda folder: sklearn(folder, gradient_boosting(), CHANCE),
    "sklearn histograms": lambda folder: sklearn(folder, histogram_boosting()),
    "sklearn pipeline": lambda folder: sklearn(folder, pipeline()),
    "sklearn network": lambda folder: sklearn(folder, network()),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_graph_scores_like_the_library(kind: str, tmp_path: Path) -> None:
    saved = MODELS[kind](tmp_path)
    converted = adopt(saved, tmp_path)
    assert (converted.kind, converted.guessed) == ("library", [])
    assert converted.format == kind.split()[0]
    features = rows(600)
    np.testing.assert_allclose(
        graph_scores(converted, features), saved.predict(features), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("kind", ["lightgbm binary", "sklearn histograms"])
def test_values_at_a_threshold_in_double_precision_go_the_same_way(kind: str, tmp_path: Path) -> None:
    # Thirds and the middles between them are no numbers of float32: rounded to the nearest, half of them move up.
    saved = MODELS[kind](tmp_path)
    near = np.unique(np.concatenate([X[:, 0], (X[:, 0] + 1 / 6)])).astype(np.float32)
    sides = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
    features = np.stack([sides, np.zeros_like(sides)], axis=1)
    np.testing.assert_allclose(
        graph_scores(adopt(saved, tmp_path), features), saved.predict(features), rtol=1e-5, atol=2e-6
    )


def test_integers_that_lightgbm_takes_as_categories_are_the_same_in_the_graph(tmp_path: Path) -> None:
    import lightgbm as library

    rng = np.random.default_rng(5)
    table = np.stack([rng.integers(0, 9, ROWS), rng.normal(size=ROWS)], axis=1)
    data = library.Dataset(table, (table[:, 0] % 2), feature_name=FEATURES, categorical_feature=["likes"])
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "num_leaves": 4}
    model = library.train({**settings, "min_data_per_group": 5, "cat_smooth": 1}, data, 5)
    model.save_model(tmp_path / "model.txt")
    assert "num_cat=1" in (tmp_path / "model.txt").read_text()
    features = table.astype(np.float32)
    scores = graph_scores(adopt(tmp_path / "model.txt", tmp_path), features)
    np.testing.assert_allclose(scores, model.predict(features), rtol=1e-5)


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda folder: lightgbm(folder, zero_as_missing=True), "scores otherwise"),
        (
            lambda folder: lightgbm(folder, CHANCE, objective="regression", linear_tree=True),
            "scores otherwise",
        ),
        (lambda folder: lightgbm(folder, CHANCE, objective="cross_entropy"), "does not know"),
        (lambda folder: xgboost(folder, objective="binary:hinge"), "scores otherwise"),
        (lambda folder: xgboost(folder, booster="dart"), "does not know"),
        (lambda folder: catboost(folder, grow_policy="Lossguide"), "does not know"),
    ],
)
def test_a_model_whose_graph_would_score_otherwise_has_none_and_says_so(
    save: Callable[[Path], Saved], reason: str, tmp_path: Path
) -> None:
    saved = save(tmp_path)
    converted = adopt(saved, tmp_path)
    assert converted.graph is None
    assert [path.name for path in (tmp_path / "adopted").iterdir()] == [converted.files[0].name]
    assert len(converted.guessed) == 1
    assert reason in converted.guessed[0]
    assert converted.signature.outputs[0].dims == ["N"]
    function = native.LIBRARIES[converted.format].open(converted.files[0], 1)
    np.testing.assert_allclose(function(rows(50)), saved.predict(rows(50)), rtol=1e-6)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_columns_are_found_by_the_names_of_features_in_the_model_s_order(kind: str, tmp_path: Path) -> None:
    signature = adopt(LIBRARIES[kind](tmp_path), tmp_path).signature
    (features,) = signature.inputs
    assert (features.name, features.dtype, features.dims) == ("features", "float32", ["N", 2])
    assert features.columns == ["likes", "age"]


def test_a_binary_classifier_scores_with_the_probability_of_class_1(tmp_path: Path) -> None:
    signature = adopt(lightgbm(tmp_path), tmp_path).signature
    assert (signature.outputs[0].dims, signature.score_column) == (["N", 2], 1)


@pytest.mark.parametrize("save", [lightgbm, xgboost, catboost])
def test_a_graph_of_trees_has_no_other_node(save: Callable[[Path], Saved], tmp_path: Path) -> None:
    import onnx

    converted = adopt(save(tmp_path), tmp_path)
    graph = onnx.load(converted.graph).graph
    assert [node.op_type for node in graph.node] == ["TreeEnsembleClassifier"]
    assert not graph.initializer


@pytest.mark.parametrize(
    "save",
    [
        lambda folder: lightgbm(folder, names="auto"),
        lambda folder: xgboost(folder, names=None),
        lambda folder: catboost(folder, names=None),
        lambda folder: sklearn(folder, forest(), named=False),
    ],
    ids=LIBRARIES,
)
def test_without_names_the_columns_of_numbers_are_taken_in_their_order_and_told(
    save: Callable[[Path], Saved], tmp_path: Path
) -> None:
    converted = adopt(save(tmp_path), tmp_path)
    assert converted.signature.columns == ["age", "likes"]
    assert converted.guessed == ["the model names no features: columns in the table's order, age, likes"]


def test_columns_that_are_named_on_the_command_line_come_first(tmp_path: Path) -> None:
    options = AdoptOptions(label="click", map=("features=age,click",))
    converted = adopt(lightgbm(tmp_path), tmp_path, options)
    assert (converted.signature.columns, converted.guessed) == (["age", "click"], [])


def test_a_list_of_so_many_numbers_fills_so_many_features(tmp_path: Path) -> None:
    options = AdoptOptions(map=("features=pair",))
    pair = ColumnRecord("float32", "candidate", 2, 9)
    assert adopt(lightgbm(tmp_path), tmp_path, options, pair=pair).signature.columns == ["pair"]


def test_a_space_in_the_name_of_a_column_is_an_underscore_in_lightgbm(tmp_path: Path) -> None:
    saved = lightgbm(tmp_path, names=["number_of_likes", "age"])
    likes = ColumnRecord("int32", "candidate", None, 9)
    converted = adopt(saved, tmp_path, **{"number of likes": likes})
    assert converted.signature.columns == ["number of likes", "age"]


def test_a_feature_that_no_column_has_is_named_with_the_nearest_column(tmp_path: Path) -> None:
    error = refused(xgboost(tmp_path, names=["likse", "age"]), tmp_path)
    assert error.message == "the model's feature likse is no column of the requests"
    assert error.hint is not None
    assert error.hint.startswith("did you mean likes?")


@pytest.mark.parametrize(
    ("mapped", "message"),
    [
        ("features=likes", "the model has 2 features, and the columns likes have 1"),
        ("features=likes,title", "the model takes numbers, and column title has texts"),
        (
            "features=likes,history",
            "the model takes numbers, and column history has lists of different lengths",
        ),
        ("features=likes,agee", "unknown column: agee"),
        ("vectors=likes,age", "unknown input of the model: vectors"),
    ],
)
def test_columns_that_cannot_fill_the_features_are_refused(mapped: str, message: str, tmp_path: Path) -> None:
    error = refused(lightgbm(tmp_path), tmp_path, AdoptOptions(map=(mapped,)))
    assert error.message == message


@pytest.mark.parametrize(
    "save",
    [
        lambda folder: lightgbm(folder, THREES, objective="multiclass", num_class=3),
        lambda folder: xgboost(folder, THREES, objective="multi:softprob", num_class=3),
        lambda folder: catboost(folder, THREES, loss_function="MultiClass"),
        lambda folder: catboost(folder, np.stack([CHANCE, CHANCE], 1), loss_function="MultiRMSE"),
        lambda folder: sklearn(folder, forest(), THREES),
    ],
)
def test_a_model_of_several_classes_is_refused(save: Callable[[Path], Saved], tmp_path: Path) -> None:
    error = refused(save(tmp_path), tmp_path)
    assert "classes" in error.message
    assert "one number" in str(error.hint)


def test_categories_that_numbers_do_not_tell_are_refused(tmp_path: Path) -> None:
    import lightgbm as library
    import pandas

    colours = pandas.DataFrame({"likes": pandas.Categorical(["red", "blue"] * 200), "age": X[:, 1]})
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    library.train(settings, library.Dataset(colours, CLICKS), 2).save_model(tmp_path / "model.txt")
    assert "pandas categories" in refused(tmp_path / "model.txt", tmp_path).message


def test_categories_of_catboost_are_refused_by_name(tmp_path: Path) -> None:
    texts = np.stack([np.where(X[:, 0] > 0, "red", "blue"), X[:, 1]], axis=1).astype(object)
    saved = catboost(tmp_path, rows=texts, categorical=["likes"])
    assert "features that are no numbers (likes)" in refused(saved, tmp_path).message


def test_a_linear_booster_is_refused(tmp_path: Path) -> None:
    assert "linear booster" in refused(xgboost(tmp_path, booster="gblinear", verbosity=0), tmp_path).message


def test_an_estimator_that_predicts_no_number_is_refused(tmp_path: Path) -> None:
    from sklearn.cluster import KMeans
    from sklearn.svm import LinearSVC

    for model in (KMeans(2, n_init=1), LinearSVC()):
        (tmp_path / type(model).__name__).mkdir()
        error = refused(sklearn(tmp_path, model), tmp_path / type(model).__name__)
        assert type(model).__name__ in error.message


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('a pickle was read')",)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.bin"])
def test_a_pickle_is_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    error = refused(tmp_path / name, tmp_path)
    assert "is a pickle, which can run any code" in error.message
    assert "skops" in str(error.hint)


def test_types_that_are_not_trusted_are_refused_by_name(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    saved = sklearn(tmp_path, make_pipeline(FunctionTransformer(np.asarray_chkfinite), forest()))
    error = refused(saved, tmp_path)
    assert "types that are not trusted: numpy.asarray_chkfinite" in error.message


@pytest.mark.parametrize(
    "change",
    [{"left_child": 100_000}, {"left_child": 0}, {"feature": 7}, {"feature": -2}],
)
def test_a_tree_whose_nodes_lead_astray_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeRegressor
    from skops.io import dump

    model = DecisionTreeRegressor(max_depth=2).fit(X, CHANCE)
    state = model.tree_.__getstate__()
    for field, value in change.items():
        state["nodes"][field][0] = value
    model.tree_.__setstate__(state)
    dump(model, tmp_path / "model.skops")
    assert "a tree in it is damaged" in refused(tmp_path / "model.skops", tmp_path).message


def test_a_tree_of_histograms_whose_nodes_lead_astray_is_refused(tmp_path: Path) -> None:
    from skops.io import dump

    model = histogram_boosting().fit(X, CLICKS)
    model._predictors[2][0].nodes["feature_idx"][0] = 5
    dump(model, tmp_path / "model.skops")
    assert "a tree in it is damaged" in refused(tmp_path / "model.skops", tmp_path).message


@pytest.mark.parametrize("kind", LIBRARIES)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(kind: str, part: float, tmp_path: Path) -> None:
    path = LIBRARIES[kind](tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert str(path) in refused(path, tmp_path).message


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_that_is_not_installed_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = LIBRARIES[kind](tmp_path)
    monkeypatch.setattr(native, "find_spec", lambda _: None)
    error = refused(saved, tmp_path)
    assert f"needs the package {kind}, which is not installed" in error.message
    assert error.hint == native.HINT


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_model_is_known_by_its_content_whatever_its_name(kind: str, tmp_path: Path) -> None:
    path = LIBRARIES[kind](tmp_path).path
    assert library_format(path) == kind
    renamed = path.rename(tmp_path / "model.dat")
    assert library_format(renamed) == kind
    assert adopt(renamed, tmp_path).format == kind


def test_files_of_others_are_no_models_of_a_library(tmp_path: Path) -> None:
    for name, content in {"a.json": '{"items": []}', "b.txt": "a tree", "c.csv": ""}.items():
        (tmp_path / name).write_text(content)
        assert library_format(tmp_path / name) is None
    assert library_format(tmp_path) is None
    assert library_format("hub/model") is None
    with pytest.raises(RbserveError, match="is no model of LightGBM, XGBoost, CatBoost or scikit-learn"):
        adopt(tmp_path / "a.json", tmp_path)


def test_a_dump_of_lightgbm_is_refused_with_what_to_save(tmp_path: Path) -> None:
    import json

    import lightgbm as library

    path = tmp_path / "dump.json"
    path.write_text(json.dumps(library.Booster(model_file=lightgbm(tmp_path).path).dump_model()))
    assert "save_model('model.txt')" in str(refused(path, tmp_path).hint)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_an_artefact_is_made_that_has_the_library_and_its_graph(kind: str, tmp_path: Path) -> None:
    requests, saved = small_requests(tmp_path / "requests"), LIBRARIES[kind](tmp_path)
    artifact = adopt_model(str(saved.path), requests, AdoptOptions(), tmp_path / "ranker")
    assert artifact.variants == ["native", "onnx-fp32"]
    assert artifact.manifest.adopted is not None
    assert (artifact.kind, artifact.manifest.adopted.guessed) == ("library", [])
    native_scores, graph_scores = (
        open_scorer(artifact, variant).score(requests.request(artifact.signature, 0))
        for variant in artifact.variants
    )
    np.testing.assert_allclose(native_scores, graph_scores, rtol=1e-5, atol=2e-6)


def test_a_graph_that_differs_in_single_rows_is_measured_on_the_requests_and_has_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightgbm as library

    monkeypatch.setattr(library_models, "_below", lambda exact: exact.astype(np.float32))
    monkeypatch.setattr(library_graph, "MOST_OTHER", 1.0)
    saved = lightgbm(tmp_path)
    branches = library.Booster(model_file=saved.path).trees_to_dataframe()
    edges = branches[branches.split_feature == "likes"].threshold.unique().astype(np.float32)
    likes = np.resize(edges, 200)
    labels = (np.arange(200) % 3 == 0).astype(np.float32)
    requests = write_requests(
        tmp_path / "edges",
        {"likes": likes, "age": np.zeros(200, np.float32)},
        offsets=np.arange(0, 201, 2),
        labels=labels,
    )
    folder = tmp_path / "ranker"
    folder.mkdir()
    fill(str(saved.path), requests, AdoptOptions(), folder, "ranker")  # in this process, which is patched
    artifact = open_artifact(folder)
    record = artifact.manifest.variants["onnx-fp32"]
    (warning,) = record.warnings
    assert "fp32 differs from native on 200 rows: by" in warning
    assert record.parity.max_abs > 1e-3
    assert artifact.manifest.adopted is not None
    assert "the ONNX graph scores otherwise than the library" in artifact.manifest.adopted.guessed[0]


def test_a_pickle_is_refused_by_adopt_itself(tmp_path: Path) -> None:
    requests = small_requests(tmp_path / "requests")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError, match="is a pickle"):
        adopt_model(str(tmp_path / "model.pkl"), requests, AdoptOptions(), tmp_path / "ranker")
    assert not (tmp_path / "ranker").exists()
